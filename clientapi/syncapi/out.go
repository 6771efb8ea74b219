package syncapi

import (
	"fmt"
	"io"
	"strconv"
	"sync"

	"github.com/tidwall/gjson"
)

const (
	// flushAt is how much of an answer is gathered before it is sent.
	flushAt = 32 << 10
	// keepBuffer is the largest buffer that is kept for the next answer.
	keepBuffer = 128 << 10
)

// out writes JSON. Commas come by themselves: a key or an element puts one before itself
// unless it is the first.
type out struct {
	buf []byte
	w   io.Writer
	// last is the last byte that was sent, 0 before the first.
	last byte
	sent bool
	// spool sends an answer that is more than one piece while the rest is made; nil until there
	// is one.
	spool *spool
}

var outs = sync.Pool{New: func() any { return &out{buf: make([]byte, 0, 4096)} }}

func newOut(w io.Writer) *out {
	o := outs.Get().(*out)
	o.w = w
	return o
}

// free gives the buffer back, and gives up what was not sent.
func (o *out) free() {
	if o.spool != nil {
		o.spool.drop()
	}
	if cap(o.buf) > keepBuffer {
		return
	}
	*o = out{buf: o.buf[:0]}
	outs.Put(o)
}

// flush sends what there is, and returns when the client has the whole answer.
func (o *out) flush() error {
	if o.spool != nil {
		s := o.spool
		if err := s.write(o.buf); err != nil {
			return err
		}
		o.buf, o.spool = o.buf[:0], nil
		return s.end()
	}
	if len(o.buf) == 0 {
		return nil
	}
	o.sent, o.last = true, o.buf[len(o.buf)-1]
	_, err := o.w.Write(o.buf)
	o.buf = o.buf[:0]
	if err != nil {
		return fmt.Errorf("send the answer: %w", err)
	}
	return nil
}

// rest has what there is sent if that is much; it does not wait for the client.
func (o *out) rest(total *spooled) error {
	if len(o.buf) < flushAt {
		return nil
	}
	if o.spool == nil {
		o.spool = newSpool(o.w, total)
	}
	o.sent, o.last = true, o.buf[len(o.buf)-1]
	err := o.spool.write(o.buf)
	o.buf = o.buf[:0]
	return err
}

func (o *out) comma() {
	last := o.last
	if n := len(o.buf); n > 0 {
		last = o.buf[n-1]
	}
	if last != 0 && last != '{' && last != '[' && last != ':' {
		o.buf = append(o.buf, ',')
	}
}

// key begins a field with a name that needs no escaping.
func (o *out) key(name string) {
	o.comma()
	o.buf = append(o.buf, '"')
	o.buf = append(o.buf, name...)
	o.buf = append(o.buf, '"', ':')
}

// anyKey begins a field.
func (o *out) anyKey(name string) {
	o.comma()
	o.buf = gjson.AppendJSONString(o.buf, name)
	o.buf = append(o.buf, ':')
}

// open begins an object or a list, close ends it.
func (o *out) open(c byte)  { o.comma(); o.buf = append(o.buf, c) }
func (o *out) close(c byte) { o.buf = append(o.buf, c) }

// raw writes a value that is JSON already.
func (o *out) raw(v []byte) { o.comma(); o.buf = append(o.buf, v...) }

func (o *out) string(s string) { o.comma(); o.buf = gjson.AppendJSONString(o.buf, s) }

func (o *out) int(n int64) { o.comma(); o.buf = strconv.AppendInt(o.buf, n, 10) }

func (o *out) bool(b bool) { o.comma(); o.buf = strconv.AppendBool(o.buf, b) }

// events begins {"events":[ and endEvents ends it.
func (o *out) events(name string) {
	o.key(name)
	o.buf = append(o.buf, `{"events":[`...)
}

func (o *out) endEvents() { o.buf = append(o.buf, ']', '}') }
