package syncapi

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// spoolMemory is how much of an answer waits in memory for its client; what is more waits in
	// a file.
	spoolMemory = 1 << 20
	// maxSpooled bounds what waits in files for all clients.
	maxSpooled = 2 << 30
	// writeTimeout is how long a client may take for one piece of an answer.
	writeTimeout = time.Minute
)

// spooled is how much waits in files.
type spooled struct{ atomic.Int64 }

// spool carries an answer from the snapshot that it is made from to its client, who may be
// slow: the snapshot ends when the answer is made, and not when the client has it. What the
// client has not taken waits in memory and, if it is much, in a file.
type spool struct {
	w     io.Writer
	total *spooled
	done  chan struct{}

	mu    sync.Mutex
	ready sync.Cond
	// queue is what waits in memory, in order; what waits in the file comes after it.
	queue  [][]byte
	queued int
	file   *os.File
	// written is how much was written to the file, taken how much of that the client has.
	written, taken int64
	ended          bool
	err            error
}

// newSpool starts to send to a client; end or drop ends it.
func newSpool(w io.Writer, total *spooled) *spool {
	s := &spool{w: w, total: total, done: make(chan struct{})}
	s.ready.L = &s.mu
	go s.send()
	return s
}

// write takes the next piece of the answer. It does not wait for the client.
func (s *spool) write(b []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	defer s.ready.Signal()
	if s.file == nil && s.queued+len(b) <= spoolMemory {
		s.queue = append(s.queue, append([]byte(nil), b...))
		s.queued += len(b)
		return nil
	}
	return s.writeFile(b)
}

func (s *spool) writeFile(b []byte) error {
	if s.total.Add(int64(len(b))) > maxSpooled {
		s.total.Add(-int64(len(b)))
		return errors.New("too much waits for clients that are slow")
	}
	if s.file == nil {
		f, err := os.CreateTemp("", "parley-sync-*")
		if err != nil {
			s.total.Add(-int64(len(b)))
			return fmt.Errorf("keep an answer for a slow client: %w", err)
		}
		s.file = f
	}
	_, err := s.file.WriteAt(b, s.written)
	s.written += int64(len(b))
	if err != nil {
		return fmt.Errorf("keep an answer for a slow client: %w", err)
	}
	return nil
}

// end returns when the client has everything.
func (s *spool) end() error {
	s.stop(nil)
	<-s.done
	return s.err
}

// errDropped ends what is not sent any more.
var errDropped = errors.New("the answer was given up")

// drop gives up what was not sent yet.
func (s *spool) drop() {
	s.stop(errDropped)
	<-s.done
}

func (s *spool) stop(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	if s.err == nil {
		s.err = err
	}
	s.ready.Signal()
}

// send sends what waits, until there is no more to come.
func (s *spool) send() {
	defer close(s.done)
	defer s.close()
	var deadline func(time.Time) error
	if w, ok := s.w.(http.ResponseWriter); ok {
		deadline = http.NewResponseController(w).SetWriteDeadline
		defer func() { _ = deadline(time.Time{}) }() // the connection may serve others; not all have deadlines
	}
	buf := make([]byte, flushAt)
	for {
		b, err := s.next(buf)
		if len(b) == 0 && err == nil {
			return
		}
		if err == nil {
			if deadline != nil {
				_ = deadline(time.Now().Add(writeTimeout))
			}
			_, err = s.w.Write(b)
		}
		if err != nil {
			s.stop(fmt.Errorf("send the answer: %w", err))
			return
		}
	}
}

// next waits for the next piece to send; nothing is the end.
func (s *spool) next(buf []byte) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.err == nil && len(s.queue) == 0 && s.taken == s.written && !s.ended {
		s.ready.Wait()
	}
	switch {
	case s.err != nil:
		return nil, s.err
	case len(s.queue) > 0:
		b := s.queue[0]
		s.queue = s.queue[1:]
		s.queued -= len(b)
		return b, nil
	case s.taken < s.written:
		n, err := s.file.ReadAt(buf[:min(int64(len(buf)), s.written-s.taken)], s.taken)
		s.taken += int64(n)
		return buf[:n], err
	}
	return nil, nil
}

// close removes the file.
func (s *spool) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.total.Add(-s.written)
	s.written, s.taken = 0, 0
	if s.file != nil {
		s.file.Close()
		os.Remove(s.file.Name())
	}
}
