package rest

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"slices"
	"sync"
	"time"
	"unicode/utf8"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	utilnet "k8s.io/apimachinery/pkg/util/net"
)

// requestTime is the longest that a request may take that is no watch.
const requestTime = time.Minute

// timeLimit is the server's limit, or the client's timeout if that is shorter.
func timeLimit(query url.Values) (time.Duration, error) {
	text := query.Get("timeout")
	if text == "" {
		return requestTime, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0, apierrors.NewBadRequest(fmt.Sprintf("invalid timeout specified in the request URL - %v", err))
	}
	if d <= 0 {
		return requestTime, nil
	}
	return min(d, requestTime), nil
}

// auditID names a request. It need be unique, not secret.
func auditID() string {
	const digits = "0123456789abcdef"
	var id [36]byte
	bits, left := rand.Uint64(), 16
	for i := range id {
		switch i {
		case 8, 13, 18, 23:
			id[i] = '-'
			continue
		}
		if left == 0 {
			bits, left = rand.Uint64(), 16
		}
		id[i] = digits[bits&15]
		bits >>= 4
		left--
	}
	id[14], id[19] = '4', digits[8+bits&3]
	return string(id[:])
}

// warnings collects what the client is to be told beside the answer. The zero
// value is ready. The registry may warn from several goroutines.
type warnings struct {
	mu   sync.Mutex
	list []string
	// size and short are the runes of all texts, as they are and cut to maxWarning.
	size, short int
}

// Limits of the runes of all warnings of one answer, and of each where these are too many,
// as upstream's.
const (
	maxWarnings = 4 << 10
	maxWarning  = 256
)

func (c *warnings) add(text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if text = firstRunes(text, maxWarnings+1); text == "" || c.short >= maxWarnings || slices.Contains(c.list, text) {
		return
	}
	n := utf8.RuneCountInString(text)
	c.size, c.short = c.size+n, c.short+min(n, maxWarning)
	c.list = append(c.list, text)
}

// write puts the warnings into the header, which must not have been sent. When they are
// too much together, each is cut.
func (c *warnings) write(h http.Header) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, text := range c.list {
		if c.size > maxWarnings {
			text = firstRunes(text, maxWarning)
		}
		if v, err := utilnet.NewWarningHeader(299, "-", text); err == nil {
			h.Add("Warning", v)
		}
	}
	c.list = nil
}

func firstRunes(s string, n int) string {
	for i := range s {
		if n == 0 {
			return s[:i]
		}
		n--
	}
	return s
}

// readAll reads r to its end; size is the length if known, else -1.
func readAll(r io.Reader, size int64) ([]byte, error) {
	if size < 0 || size > maxBody {
		b, err := io.ReadAll(r)
		return b, unread(err)
	}
	b := make([]byte, size)
	_, err := io.ReadFull(r, b)
	return b, unread(err)
}

// unread makes a client's error of a body that ends early or breaks the rules of its
// transfer; what is too large or too late is said elsewhere.
func unread(err error) error {
	var tooLarge *http.MaxBytesError
	if err == nil || errors.As(err, &tooLarge) || errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	return apierrors.NewBadRequest("reading the request body: " + err.Error())
}
