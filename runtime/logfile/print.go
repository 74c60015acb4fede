package logfile

import (
	"bufio"
	"context"
	"errors"
	"io"
)

// errLimit: the output limit is reached.
var errLimit = errors.New("limit reached")

// maxTornBytes bounds a line without an end; our own lines are far shorter.
const maxTornBytes = 1 << 20

// printer turns records into output.
type printer struct {
	opts           Options
	left           int64 // bytes of output that LimitBytes still allows
	stdout, stderr io.Writer

	torn    []byte // the beginning of a line whose end is not in the file yet
	out     []byte // reused
	midLine bool   // the last record printed was partial
}

// drain prints all whole lines that r has now.
func (p *printer) drain(ctx context.Context, r *bufio.Reader) (n int, err error) {
	for {
		if err := ctx.Err(); err != nil {
			return n, nil
		}
		line, err := r.ReadSlice('\n')
		if err != nil {
			// The end for now (or a line longer than the buffer): keep what is there.
			if len(p.torn)+len(line) <= maxTornBytes {
				p.torn = append(p.torn, line...)
			} else {
				p.torn = p.torn[:0]
			}
			if errors.Is(err, bufio.ErrBufferFull) {
				continue
			}
			if errors.Is(err, io.EOF) {
				return n, nil
			}
			return n, err
		}
		if len(p.torn) > 0 {
			p.torn = append(p.torn, line...)
			line = p.torn
		}
		err = p.print(line[:len(line)-1])
		p.torn = p.torn[:0]
		if err != nil {
			return n, err
		}
		n++
	}
}

// print writes one record; lines that are none are left out.
func (p *printer) print(line []byte) error {
	r, ok := parse(line)
	if !ok {
		return nil
	}
	if !p.opts.Since.IsZero() && r.time.Before(p.opts.Since) {
		return nil
	}
	to := p.stdout
	if r.stream == Stderr {
		to = p.stderr
	}
	if to == nil {
		return nil
	}
	b := p.out[:0]
	if p.opts.Timestamps && !p.midLine {
		b = r.time.UTC().AppendFormat(b, timeFormat)
		b = append(b, ' ')
	}
	b = append(b, r.content...)
	if !r.partial {
		b = append(b, '\n')
	}
	p.midLine, p.out = r.partial, b
	limited := p.opts.LimitBytes > 0
	if limited && int64(len(b)) >= p.left {
		if _, err := to.Write(b[:p.left]); err != nil {
			return err
		}
		return errLimit
	}
	p.left -= int64(len(b))
	_, err := to.Write(b)
	return err
}
