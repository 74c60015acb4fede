package access

import (
	"encoding/base64"
	"net/http"
	"net/textproto"
	"strings"
	"unicode/utf8"
)

// protocolPrefix marks the subprotocol in which browsers, which cannot set
// headers on a WebSocket, carry a bearer token.
const protocolPrefix = "base64url.bearer.authorization.k8s.io."

// websocketBearer takes the token out of Sec-WebSocket-Protocol; there must be
// exactly one and another protocol beside it, else the request has no token.
func websocketBearer(r *http.Request) (string, bool) {
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		return "", false
	}
	token := ""
	var rest []string
	for _, line := range r.Header[textproto.CanonicalMIMEHeaderKey("Sec-WebSocket-Protocol")] {
		for p := range strings.SplitSeq(line, ",") {
			p = strings.TrimSpace(p)
			enc, ok := strings.CutPrefix(p, protocolPrefix)
			if !ok {
				rest = append(rest, p)
				continue
			}
			raw, err := base64.RawURLEncoding.DecodeString(enc)
			if err != nil || token != "" || !utf8.Valid(raw) {
				return "", false
			}
			token = string(raw)
		}
	}
	if token == "" || len(rest) == 0 {
		return "", false
	}
	r.Header.Set("Sec-WebSocket-Protocol", strings.Join(rest, ","))
	return token, true
}
