package cache

// Unreadable is why the stored value of an object cannot be read, nil if it can or is not there.
func (c *Cache) Unreadable(k *Kind, namespace, name string) error {
	b := c.shelves.Load().byKind[k.Facts.Stored()]
	if b == nil {
		return nil
	}
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.broken[b.kind.key(namespace, name)]
}
