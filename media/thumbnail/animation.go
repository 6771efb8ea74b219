package thumbnail

import (
	"bytes"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/gif"
	"io"
)

// animate makes a thumbnail that moves as the GIF does: each frame as it is shown, made small.
func animate(r io.Reader, info Info, req Request) (*Thumbnail, error) {
	if err := countFrames(r.(io.ReadSeeker), info, req.MaxPixels); err != nil {
		return nil, err
	}
	all, err := gif.DecodeAll(r)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	whole := image.Rect(0, 0, info.Width, info.Height)
	p := newPlan(info.Width, info.Height, req)
	out := &gif.GIF{LoopCount: all.LoopCount, Config: image.Config{Width: p.width, Height: p.height}}
	canvas, before := image.NewRGBA(whole), image.NewRGBA(whole)
	for i, frame := range all.Image {
		if all.Disposal[i] == gif.DisposalPrevious {
			copy(before.Pix, canvas.Pix)
		}
		draw.Draw(canvas, frame.Bounds(), frame, frame.Bounds().Min, draw.Over)
		out.Image = append(out.Image, paletted(p.scale(canvas), frame.Palette))
		out.Delay = append(out.Delay, all.Delay[i])
		out.Disposal = append(out.Disposal, gif.DisposalBackground)
		switch all.Disposal[i] {
		case gif.DisposalBackground:
			draw.Draw(canvas, frame.Bounds(), image.Transparent, image.Point{}, draw.Src)
		case gif.DisposalPrevious:
			copy(canvas.Pix, before.Pix)
		}
	}
	var text bytes.Buffer
	if err := gif.EncodeAll(&text, out); err != nil {
		return nil, fmt.Errorf("encode a GIF: %w", err)
	}
	return &Thumbnail{Type: "image/gif", Data: text.Bytes(), Width: p.width, Height: p.height}, nil
}

// paletted reduces a picture to the colours of a palette, with one that is transparent.
func paletted(img *image.RGBA, colours color.Palette) *image.Paletted {
	palette := colours
	clear := -1
	for i, c := range colours {
		if _, _, _, a := c.RGBA(); a == 0 {
			clear = i
		}
	}
	if clear < 0 && len(colours) < 256 {
		clear = len(colours)
		palette = append(append(color.Palette{}, colours...), color.RGBA{})
	}
	out := image.NewPaletted(img.Bounds(), palette)
	known := make(map[color.RGBA]uint8)
	for y := range img.Bounds().Dy() {
		for x := range img.Bounds().Dx() {
			c := img.RGBAAt(x, y)
			if c.A < 128 && clear >= 0 {
				out.Pix[y*out.Stride+x] = uint8(clear)
				continue
			}
			// A few shades less, so that each is looked for once.
			c.R, c.G, c.B, c.A = c.R|3, c.G|3, c.B|3, 255
			index, ok := known[c]
			if !ok {
				index = uint8(palette.Index(c))
				known[c] = index
			}
			out.Pix[y*out.Stride+x] = index
		}
	}
	return out
}

// countFrames refuses a GIF whose frames have more pixels in all than are allowed, by what its
// blocks say, before any is decoded. It leaves the reader at the start.
func countFrames(r io.ReadSeeker, info Info, maxPixels int) error {
	frames, err := gifFrames(r)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	// Each is decoded, and drawn on a canvas as large as the picture.
	if frames == 0 || frames > maxPixels/(info.Width*info.Height) {
		return ErrTooLarge
	}
	_, err = r.Seek(0, io.SeekStart)
	return err
}

// gifFrames is how many frames a GIF has.
func gifFrames(r io.ReadSeeker) (int, error) {
	if _, err := r.Seek(0, io.SeekStart); err != nil {
		return 0, err
	}
	b := newBlockReader(r)
	head := b.take(13)
	if b.err != nil {
		return 0, b.err
	}
	if head[10]&0x80 != 0 {
		b.skip(3 << (head[10]&7 + 1)) // the palette
	}
	frames := 0
	for b.err == nil {
		kind := b.take(1)
		if b.err != nil {
			break
		}
		switch kind[0] {
		case 0x21: // an extension
			b.skip(1)
			b.skipBlocks()
		case 0x2c: // a frame
			frame := b.take(9)
			if b.err != nil {
				break
			}
			if frame[8]&0x80 != 0 {
				b.skip(3 << (frame[8]&7 + 1))
			}
			b.skip(1)
			b.skipBlocks()
			frames++
		case 0x3b: // the end
			return frames, nil
		default:
			return frames, fmt.Errorf("a block of kind %#x", kind[0])
		}
	}
	return frames, b.err
}
