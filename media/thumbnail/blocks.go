package thumbnail

import (
	"bufio"
	"io"
)

// blockReader walks over the blocks of a GIF. After an error it does nothing.
type blockReader struct {
	r   *bufio.Reader
	buf [16]byte
	err error
}

func newBlockReader(r io.Reader) *blockReader { return &blockReader{r: bufio.NewReader(r)} }

// take reads up to 16 bytes, which are valid until the next call.
func (b *blockReader) take(n int) []byte {
	if b.err == nil {
		_, b.err = io.ReadFull(b.r, b.buf[:n])
	}
	return b.buf[:n]
}

func (b *blockReader) skip(n int) {
	if b.err == nil {
		_, b.err = b.r.Discard(n)
	}
}

// skipBlocks passes over blocks that say how long they are, and the empty one behind them.
func (b *blockReader) skipBlocks() {
	for b.err == nil {
		n := int(b.take(1)[0])
		if n == 0 {
			return
		}
		b.skip(n)
	}
}
