package thumbnail

import (
	"bytes"
	"encoding/binary"
	"errors"
	"image"
	"io"
)

var errWebP = errors.New("not a WebP picture")

// webpSize is how large a picture is by the first chunk of its file.
func webpSize(start []byte) (width, height int, err error) {
	if len(start) < 30 {
		return 0, 0, errWebP
	}
	chunk, data := string(start[12:16]), start[20:]
	switch chunk {
	case "VP8X":
		return 1 + uint24(data[4:]), 1 + uint24(data[7:]), nil
	case "VP8 ":
		if data[3] != 0x9d || data[4] != 0x01 || data[5] != 0x2a {
			return 0, 0, errWebP
		}
		return int(binary.LittleEndian.Uint16(data[6:]) & 0x3fff), int(binary.LittleEndian.Uint16(data[8:]) & 0x3fff), nil
	case "VP8L":
		if data[0] != 0x2f {
			return 0, 0, errWebP
		}
		bits := binary.LittleEndian.Uint32(data[1:])
		return int(bits&0x3fff) + 1, int(bits>>14&0x3fff) + 1, nil
	}
	return 0, 0, errWebP
}

func uint24(b []byte) int { return int(b[0]) | int(b[1])<<8 | int(b[2])<<16 }

// firstFrame is a WebP file as the decoder takes it, which knows no animations: of one it is
// the first frame, which may be only a part of the picture, from at on. It reads no more than
// limit bytes.
func firstFrame(r io.Reader, limit int64) (still io.Reader, at image.Point, err error) {
	var head [12]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, at, err
	}
	var before bytes.Buffer // what came before, for a file that is no animation
	before.Write(head[:])
	r = io.LimitReader(r, limit)
	for range 1000 {
		var chunk [8]byte
		if _, err := io.ReadFull(r, chunk[:]); err != nil {
			return nil, at, err
		}
		size := int64(binary.LittleEndian.Uint32(chunk[4:]))
		size += size & 1
		if size > limit {
			return nil, at, errWebP
		}
		switch string(chunk[:4]) {
		case "VP8 ", "VP8L", "ALPH":
			before.Write(chunk[:])
			return io.MultiReader(&before, r), at, nil
		case "ANMF":
			const header = 16
			if size < header {
				return nil, at, errWebP
			}
			frame := make([]byte, 0, min(size, 1<<20))
			buffer := bytes.NewBuffer(frame)
			if _, err := io.CopyN(buffer, r, size); err != nil {
				return nil, at, err
			}
			at = image.Pt(2*uint24(buffer.Bytes()), 2*uint24(buffer.Bytes()[3:]))
			still, err = wrapFrame(buffer.Bytes(), header)
			return still, at, err
		case "VP8X":
			data := make([]byte, size)
			if size != 10 {
				return nil, at, errWebP
			}
			if _, err := io.ReadFull(r, data); err != nil {
				return nil, at, err
			}
			before.Write(chunk[:])
			before.Write(data)
		default: // ANIM, ICCP, EXIF …
			if _, err := io.CopyN(io.Discard, r, size); err != nil {
				return nil, at, err
			}
		}
	}
	return nil, at, errWebP
}

// wrapFrame makes a file of a frame of an animation.
func wrapFrame(frame []byte, header int) (io.Reader, error) {
	width, height := uint24(frame[6:]), uint24(frame[9:]) // less 1, as VP8X has them
	body := frame[header:]
	var out bytes.Buffer
	if len(body) >= 4 && string(body[:4]) == "ALPH" {
		const hasAlpha = 0x10
		vp8x := []byte{'V', 'P', '8', 'X', 10, 0, 0, 0, hasAlpha, 0, 0, 0,
			byte(width), byte(width >> 8), byte(width >> 16), byte(height), byte(height >> 8), byte(height >> 16)}
		body = append(vp8x, body...)
	}
	out.WriteString("RIFF")
	if err := binary.Write(&out, binary.LittleEndian, uint32(4+len(body))); err != nil {
		return nil, err
	}
	out.WriteString("WEBP")
	out.Write(body)
	return &out, nil
}
