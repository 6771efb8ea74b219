// Package thumbnail makes small pictures of large ones: JPEG, PNG, GIF and WebP in; JPEG, PNG
// and, for what moves, GIF out. What a stranger sends is judged by its header before anything
// is decoded, and never decoded when it says that it has too many pixels.
//
// Which thumbnails there are, and where they are kept, is the business of package media.
//
// spec: client-server-api/modules/content_repo.md#thumbnails
package thumbnail

import (
	"bytes"
	"errors"
	"fmt"
	"image"
	"image/draw"
	"image/gif"
	"image/jpeg"
	"image/png"
	"io"

	xdraw "golang.org/x/image/draw"
	"golang.org/x/image/webp"
)

var (
	// ErrUnsupported says that something is no picture of a kind that we know, or a broken one.
	ErrUnsupported = errors.New("not a picture that a thumbnail can be made of")
	// ErrTooLarge says that a picture has more pixels than are allowed.
	ErrTooLarge = errors.New("the picture has too many pixels")
)

// Info is what the header of a picture says.
type Info struct {
	Format string // "jpeg", "png", "gif" or "webp"
	// Width and Height are of the picture as it is to be shown.
	Width, Height int
	// Orientation is how a JPEG lies, from 1 to 8 as EXIF counts; 1 for all else.
	Orientation int
}

// Request is what thumbnail is wanted.
type Request struct {
	Width, Height int
	// Crop cuts the picture to the aspect of Width and Height; otherwise it keeps its own, and
	// is at least as large as they are.
	Crop bool
	// Animated asks for one that moves, if the picture does.
	Animated bool
	// MaxPixels is how many pixels the picture may have, all of its frames together.
	MaxPixels int
}

// Thumbnail is a small picture.
type Thumbnail struct {
	Type          string
	Data          []byte
	Width, Height int
}

// jpegQuality is what is common for thumbnails.
const jpegQuality = 80

// Look reads the header of a picture.
func Look(r io.ReadSeeker) (Info, error) {
	if _, err := r.Seek(0, io.SeekStart); err != nil {
		return Info{}, err
	}
	var start [32]byte
	n, err := io.ReadFull(r, start[:])
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return Info{}, err
	}
	format := formatOf(start[:n])
	if format == "" {
		return Info{}, ErrUnsupported
	}
	if _, err := r.Seek(0, io.SeekStart); err != nil {
		return Info{}, err
	}
	info := Info{Format: format, Orientation: 1}
	var c image.Config
	switch format {
	case "jpeg":
		if c, err = jpeg.DecodeConfig(r); err != nil {
			break
		}
		if _, err = r.Seek(0, io.SeekStart); err != nil {
			return Info{}, err
		}
		info.Orientation = orientation(r)
	case "png":
		c, err = png.DecodeConfig(r)
	case "gif":
		c, err = gif.DecodeConfig(r)
	case "webp":
		c.Width, c.Height, err = webpSize(start[:n])
	}
	if err != nil {
		return Info{}, fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	if c.Width <= 0 || c.Height <= 0 {
		return Info{}, ErrUnsupported
	}
	info.Width, info.Height = c.Width, c.Height
	if info.Orientation >= 5 { // it lies on its side
		info.Width, info.Height = c.Height, c.Width
	}
	return info, nil
}

func formatOf(start []byte) string {
	switch {
	case bytes.HasPrefix(start, []byte("\xff\xd8\xff")):
		return "jpeg"
	case bytes.HasPrefix(start, []byte("\x89PNG\r\n\x1a\n")):
		return "png"
	case bytes.HasPrefix(start, []byte("GIF87a")), bytes.HasPrefix(start, []byte("GIF89a")):
		return "gif"
	case len(start) >= 16 && string(start[:4]) == "RIFF" && string(start[8:12]) == "WEBP":
		return "webp"
	}
	return ""
}

// Fits says whether a picture is no larger than what is asked for, so that it is a thumbnail
// of itself: none is ever made larger.
func (i Info) Fits(r Request) bool {
	if r.Crop {
		return i.Width <= r.Width && i.Height <= r.Height
	}
	return i.Width <= r.Width || i.Height <= r.Height
}

// Make makes a thumbnail of a picture whose header was looked at. Of one that fits it is as
// large as the picture.
func Make(r io.ReadSeeker, info Info, req Request) (*Thumbnail, error) {
	if req.Width < 1 || req.Height < 1 {
		return nil, fmt.Errorf("a thumbnail of %d by %d can't be made", req.Width, req.Height)
	}
	if info.Width > req.MaxPixels/info.Height {
		return nil, ErrTooLarge
	}
	if _, err := r.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	if info.Format == "gif" && req.Animated {
		return animate(r, info, req)
	}
	src, err := decode(r, info)
	if err != nil {
		return nil, err
	}
	// Of what lies on its side, the thumbnail does too, until it is turned.
	stored := info
	if info.Orientation >= 5 {
		stored.Width, stored.Height = info.Height, info.Width
		req.Width, req.Height = req.Height, req.Width
	}
	if b := src.Bounds(); b.Dx() != stored.Width || b.Dy() != stored.Height {
		return nil, fmt.Errorf("%w: it is not as large as it says", ErrUnsupported)
	}
	p := newPlan(stored.Width, stored.Height, req)
	small := turn(p.scale(src), info.Orientation)
	return encode(small, info.Format)
}

func decode(r io.Reader, info Info) (img image.Image, err error) {
	switch info.Format {
	case "jpeg":
		img, err = jpeg.Decode(r)
	case "png":
		img, err = png.Decode(r)
	case "gif":
		img, err = gif.Decode(r) // the first frame
		if err == nil {
			img = onCanvas(img, img.Bounds().Min, info.Width, info.Height)
		}
	case "webp":
		var still io.Reader
		var at image.Point
		if still, at, err = firstFrame(r, int64(info.Width)*int64(info.Height)*8+1<<20); err != nil {
			break
		}
		var c image.Config
		var again bytes.Buffer // what the decoder's look at the header takes
		if c, err = webp.DecodeConfig(io.TeeReader(still, &again)); err != nil {
			break
		}
		if c.Width > info.Width || c.Height > info.Height {
			return nil, fmt.Errorf("%w: a frame is larger than it", ErrUnsupported)
		}
		if img, err = webp.Decode(io.MultiReader(&again, still)); err == nil {
			img = onCanvas(img, at, info.Width, info.Height)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	return img, nil
}

// onCanvas puts a frame that may be smaller than its picture where it belongs.
func onCanvas(frame image.Image, at image.Point, width, height int) image.Image {
	whole := image.Rect(0, 0, width, height)
	if frame.Bounds() == whole {
		return frame
	}
	canvas := image.NewRGBA(whole)
	draw.Draw(canvas, image.Rectangle{Min: at, Max: at.Add(frame.Bounds().Size())}, frame, frame.Bounds().Min, draw.Src)
	return canvas
}

// encode makes a JPEG, and a PNG of what a JPEG can't show, or what was a PNG and is so drawn
// rather than photographed.
func encode(img *image.RGBA, from string) (*Thumbnail, error) {
	var out bytes.Buffer
	t := &Thumbnail{Type: "image/png", Width: img.Bounds().Dx(), Height: img.Bounds().Dy()}
	var err error
	if from != "png" && img.Opaque() {
		t.Type = "image/jpeg"
		err = jpeg.Encode(&out, img, &jpeg.Options{Quality: jpegQuality})
	} else {
		err = png.Encode(&out, img)
	}
	t.Data = out.Bytes()
	return t, err
}

// plan is how a picture becomes a thumbnail.
type plan struct {
	from          image.Rectangle // what is shown of the picture
	width, height int
}

func newPlan(width, height int, req Request) plan {
	p := plan{from: image.Rect(0, 0, width, height), width: width, height: height}
	// By how much it may shrink until one side is as short as asked for.
	if int64(width)*int64(req.Height) <= int64(height)*int64(req.Width) { // the width is
		if req.Width < width {
			p.width, p.height = req.Width, max(1, divide(height, req.Width, width))
		}
	} else if req.Height < height {
		p.width, p.height = max(1, divide(width, req.Height, height)), req.Height
	}
	if !req.Crop {
		return p
	}
	w, h := min(p.width, req.Width), min(p.height, req.Height)
	fromW, fromH := max(1, divide(width, w, p.width)), max(1, divide(height, h, p.height))
	p.from = image.Rect(0, 0, fromW, fromH).Add(image.Pt((width-fromW)/2, (height-fromH)/2))
	p.width, p.height = w, h
	return p
}

// divide is a*b/c, rounded.
func divide(a, b, c int) int { return int((int64(a)*int64(b) + int64(c)/2) / int64(c)) }

// scale makes the thumbnail: first whole pixels are averaged, which is quick, and then what
// remains is scaled well.
func (p plan) scale(src image.Image) *image.RGBA {
	k := min(p.from.Dx()/p.width, p.from.Dy()/p.height)
	from := p.from.Add(src.Bounds().Min)
	if k >= 2 {
		src, from = average(src, from, k)
	}
	dst := image.NewRGBA(image.Rect(0, 0, p.width, p.height))
	xdraw.CatmullRom.Scale(dst, dst.Bounds(), src, from, xdraw.Src, nil)
	return dst
}
