package thumbnail

import (
	"bufio"
	"encoding/binary"
	"image"
	"io"
)

// orientation is how a JPEG lies, as its EXIF data says; 1, upright, where it says nothing
// that can be understood.
func orientation(r io.Reader) int {
	b := bufio.NewReader(r)
	var head [4]byte
	if _, err := io.ReadFull(b, head[:2]); err != nil {
		return 1
	}
	for range 100 { // segments before the picture
		if _, err := io.ReadFull(b, head[:]); err != nil || head[0] != 0xff {
			return 1
		}
		length := int(binary.BigEndian.Uint16(head[2:])) - 2
		if length < 0 || head[1] == 0xda {
			return 1
		}
		if head[1] != 0xe1 {
			if _, err := b.Discard(length); err != nil {
				return 1
			}
			continue
		}
		segment := make([]byte, length)
		if _, err := io.ReadFull(b, segment); err != nil {
			return 1
		}
		if o := exifOrientation(segment); o != 0 {
			return o
		}
	}
	return 1
}

// exifOrientation reads the orientation from a segment, 0 where it has none.
func exifOrientation(segment []byte) int {
	if len(segment) < 14 || string(segment[:6]) != "Exif\x00\x00" {
		return 0
	}
	tiff := segment[6:]
	var order binary.ByteOrder
	switch string(tiff[:2]) {
	case "II":
		order = binary.LittleEndian
	case "MM":
		order = binary.BigEndian
	default:
		return 0
	}
	at := uint64(order.Uint32(tiff[4:]))
	if at+2 > uint64(len(tiff)) {
		return 0
	}
	count := int(order.Uint16(tiff[at:]))
	entries := tiff[at+2:]
	for i := range count {
		if len(entries) < 12*(i+1) {
			return 0
		}
		entry := entries[12*i:]
		if order.Uint16(entry) == 0x0112 && order.Uint16(entry[2:]) == 3 {
			if o := int(order.Uint16(entry[8:])); o >= 1 && o <= 8 {
				return o
			}
			return 0
		}
	}
	return 0
}

// turn sets a picture upright.
func turn(img *image.RGBA, orientation int) *image.RGBA {
	if orientation <= 1 || orientation > 8 {
		return img
	}
	w, h := img.Bounds().Dx(), img.Bounds().Dy()
	size := image.Rect(0, 0, w, h)
	if orientation >= 5 {
		size = image.Rect(0, 0, h, w)
	}
	out := image.NewRGBA(size)
	for y := range h {
		for x := range w {
			tx, ty := x, y
			switch orientation {
			case 2:
				tx = w - 1 - x
			case 3:
				tx, ty = w-1-x, h-1-y
			case 4:
				ty = h - 1 - y
			case 5:
				tx, ty = y, x
			case 6:
				tx, ty = h-1-y, x
			case 7:
				tx, ty = h-1-y, w-1-x
			case 8:
				tx, ty = y, w-1-x
			}
			copy(out.Pix[out.PixOffset(tx, ty):][:4], img.Pix[img.PixOffset(x, y):][:4])
		}
	}
	return out
}
