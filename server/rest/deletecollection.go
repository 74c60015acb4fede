package rest

// deleteCollection answers DELETE of all objects that the selectors match, with
// their list.
func (s *Server) deleteCollection(q *request) error {
	m, err := q.media(q.offer())
	if err != nil {
		return err
	}
	d, err := s.deleteOptions(q)
	if err != nil {
		return err
	}
	l, err := listOptions(q.query)
	if err != nil {
		return err
	}
	list, err := s.config.Registry.DeleteCollection(q.Context(), q.call(), d, l)
	if err != nil {
		return s.fail(q, err)
	}
	return s.answerList(q, m, list)
}
