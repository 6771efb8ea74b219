package syncapi

import (
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"

	"parley/storage"
)

// shareSize is how many rooms a goroutine takes at once of those that several write.
const shareSize = 16

// writeRoom writes one room, and says whether there was anything to say of it.
type writeRoom func(*builder, *storage.Membership) (bool, error)

// section writes the rooms of a section, and says whether there were any. Where there are many, a goroutine for each
// further snapshot helps; in which order rooms come means nothing.
func (b *builder) section(rooms []*storage.Membership, write writeRoom) (told bool, err error) {
	var next atomic.Int64
	var mu sync.Mutex // guards b.out, told and err
	work := func(tx *storage.Tx) {
		w := *b
		w.tx, w.out = tx, newOut(nil)
		defer w.out.free()
		for {
			end := int(next.Add(shareSize))
			if end-shareSize >= len(rooms) {
				return
			}
			some, werr := w.share(rooms[end-shareSize:min(end, len(rooms))], write)
			mu.Lock()
			if werr == nil && some {
				told = true
				b.out.raw(w.out.buf)
				werr = b.out.rest(&b.spooled)
			}
			if werr != nil {
				err = werr
				next.Store(int64(len(rooms))) // the others need not go on
			}
			mu.Unlock()
			w.out.buf = w.out.buf[:0]
		}
	}
	helpers := (len(rooms) - 1) / shareSize
	func() {
		var wait sync.WaitGroup
		defer wait.Wait()
		for _, tx := range b.beside[:max(0, min(helpers, len(b.beside)))] {
			wait.Go(func() {
				defer func() {
					if p := recover(); p != nil { // which would end the process, and not the request alone
						mu.Lock()
						defer mu.Unlock()
						err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
					}
				}()
				work(tx)
			})
		}
		work(b.tx)
	}()
	return told, err
}

// share writes some rooms.
func (b *builder) share(rooms []*storage.Membership, write writeRoom) (some bool, err error) {
	o := b.out
	for _, m := range rooms {
		mark := len(o.buf)
		o.anyKey(string(m.RoomID))
		told, err := write(b, m)
		if err != nil {
			return false, err
		}
		if !told {
			o.buf = o.buf[:mark]
			continue
		}
		some = true
	}
	return some, nil
}
