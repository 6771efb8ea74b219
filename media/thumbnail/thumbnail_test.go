package thumbnail

import (
	"bytes"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/gif"
	"image/jpeg"
	"image/png"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

const plenty = 1 << 26

func read(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func build(t testing.TB, data []byte, req Request) (*Thumbnail, image.Image) {
	t.Helper()
	r := bytes.NewReader(data)
	info, err := Look(r)
	if err != nil {
		t.Fatal(err)
	}
	thumb, err := Make(r, info, req)
	if err != nil {
		t.Fatal(err)
	}
	img, _, err := image.Decode(bytes.NewReader(thumb.Data))
	if err != nil {
		t.Fatal(err)
	}
	if b := img.Bounds(); b.Dx() != thumb.Width || b.Dy() != thumb.Height {
		t.Errorf("the thumbnail is %v and not %d by %d", b, thumb.Width, thumb.Height)
	}
	return thumb, img
}

// gradient is a picture whose colours say where one is.
func gradient(w, h int) *image.RGBA {
	img := image.NewRGBA(image.Rect(0, 0, w, h))
	for y := range h {
		for x := range w {
			img.SetRGBA(x, y, color.RGBA{uint8(255 * x / w), uint8(255 * y / h), 128, 255})
		}
	}
	return img
}

func encoded(t testing.TB, img image.Image, format string) []byte {
	t.Helper()
	var out bytes.Buffer
	var err error
	if format == "png" {
		err = png.Encode(&out, img)
	} else {
		err = jpeg.Encode(&out, img, &jpeg.Options{Quality: 95})
	}
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func near(a, b color.Color, by int) bool {
	ar, ag, ab, aa := a.RGBA()
	br, bg, bb, ba := b.RGBA()
	for _, d := range []int{int(ar>>8) - int(br>>8), int(ag>>8) - int(bg>>8), int(ab>>8) - int(bb>>8), int(aa>>8) - int(ba>>8)} {
		if d > by || d < -by {
			return false
		}
	}
	return true
}

func TestSizes(t *testing.T) {
	for _, c := range []struct {
		w, h, reqW, reqH int
		crop             bool
		wantW, wantH     int
		fits             bool
	}{
		{1000, 500, 320, 240, false, 480, 240, false},
		{500, 1000, 320, 240, false, 320, 640, false},
		{1000, 500, 96, 96, true, 96, 96, false},
		{500, 1000, 96, 96, true, 96, 96, false},
		{100, 50, 320, 240, false, 100, 50, true},
		{1000, 200, 320, 240, false, 1000, 200, true}, // any smaller would be too low
		{1000, 50, 96, 96, true, 96, 50, false},
		{50, 50, 96, 96, true, 50, 50, true},
		{3000, 1, 32, 32, true, 32, 1, false},
		{4001, 2999, 800, 600, false, 800, 600, false},
	} {
		req := Request{Width: c.reqW, Height: c.reqH, Crop: c.crop, MaxPixels: plenty}
		data := encoded(t, gradient(c.w, c.h), "png")
		info, err := Look(bytes.NewReader(data))
		if err != nil || info.Fits(req) != c.fits {
			t.Errorf("%+v: %+v, %v", c, info, err)
		}
		thumb, _ := build(t, data, req)
		if thumb.Width != c.wantW || thumb.Height != c.wantH {
			t.Errorf("%+v: %d by %d", c, thumb.Width, thumb.Height)
		}
	}
}

// TestContent looks whether the thumbnail shows what the picture does.
func TestContent(t *testing.T) {
	for _, format := range []string{"png", "jpeg"} {
		for range 20 {
			w, h := 300+rand.IntN(900), 300+rand.IntN(900)
			_, img := build(t, encoded(t, gradient(w, h), format), Request{Width: 100, Height: 100, MaxPixels: plenty})
			b := img.Bounds()
			for _, at := range []image.Point{{5, 5}, {b.Dx() / 2, b.Dy() / 2}, {b.Dx() - 6, b.Dy() - 6}} {
				want := color.RGBA{uint8(255 * at.X / b.Dx()), uint8(255 * at.Y / b.Dy()), 128, 255}
				if got := img.At(at.X, at.Y); !near(got, want, 12) {
					t.Errorf("%s of %d by %d: at %v is %v and not %v", format, w, h, at, got, want)
				}
			}
			_, img = build(t, encoded(t, gradient(w, h), format), Request{Width: 60, Height: 60, Crop: true, MaxPixels: plenty})
			if !near(img.At(30, 30), color.RGBA{128, 128, 128, 255}, 12) {
				t.Errorf("%s of %d by %d: the middle of the cut is %v", format, w, h, img.At(30, 30))
			}
		}
	}
}

// TestAverage compares the quick way with the plain one, for each way in which JPEGs sample colours.
func TestAverage(t *testing.T) {
	for _, ratio := range []image.YCbCrSubsampleRatio{image.YCbCrSubsampleRatio444, image.YCbCrSubsampleRatio422,
		image.YCbCrSubsampleRatio420, image.YCbCrSubsampleRatio440, image.YCbCrSubsampleRatio411} {
		for range 20 {
			w, h, k := 20+rand.IntN(60), 20+rand.IntN(60), 2+rand.IntN(6)
			src := image.NewYCbCr(image.Rect(0, 0, w, h), ratio)
			for y := range h {
				for x := range w {
					src.Y[src.YOffset(x, y)] = uint8(16 + 200*x/w)
					src.Cb[src.COffset(x, y)], src.Cr[src.COffset(x, y)] = uint8(64+128*y/h), 128
				}
			}
			small, part := average(src, src.Bounds(), k)
			if ratio != image.YCbCrSubsampleRatio444 && ratio != image.YCbCrSubsampleRatio411 {
				k &^= 1
			}
			for range 10 {
				x, y := part.Min.X+rand.IntN(max(1, part.Dx()-1)), part.Min.Y+rand.IntN(max(1, part.Dy()-1))
				like := src.At(min(w-1, x*k+k/2), min(h-1, y*k+k/2))
				if got := small.At(x, y); !near(got, like, 20) {
					t.Fatalf("%v, %d by %d, %d times smaller: at %d,%d is %v and not %v", ratio, w, h, k, x, y, got, like)
				}
			}
		}
	}
}

func TestOrientation(t *testing.T) {
	for o := 1; o <= 8; o++ {
		data := read(t, fmt.Sprintf("orientation-%d.jpg", o))
		info, err := Look(bytes.NewReader(data))
		if err != nil || info.Orientation != o || info.Width != 120 || info.Height != 80 {
			t.Fatalf("%+v, %v", info, err)
		}
		_, img := build(t, data, Request{Width: 60, Height: 40, MaxPixels: plenty})
		if b := img.Bounds(); b.Dx() != 60 || b.Dy() != 40 {
			t.Errorf("orientation %d: %v", o, b)
		}
		red, white := color.RGBA{255, 0, 0, 255}, color.RGBA{255, 255, 255, 255}
		for at, want := range map[image.Point]color.RGBA{{10, 10}: red, {50, 10}: white, {10, 30}: white, {50, 30}: white} {
			if got := img.At(at.X, at.Y); !near(got, want, 30) {
				t.Errorf("orientation %d: at %v is %v", o, at, got)
			}
		}
	}
}

func TestWebP(t *testing.T) {
	for name, want := range map[string]struct {
		at    image.Point
		color color.RGBA
		mime  string
	}{
		"lossy.webp":          {image.Pt(50, 30), color.RGBA{255, 0, 0, 255}, "image/jpeg"},
		"lossless.webp":       {image.Pt(50, 30), color.RGBA{255, 0, 0, 255}, "image/jpeg"},
		"animated.webp":       {image.Pt(50, 30), color.RGBA{255, 0, 0, 255}, "image/jpeg"}, // its first frame
		"alpha.webp":          {image.Pt(1, 1), color.RGBA{}, "image/png"},
		"animated-alpha.webp": {image.Pt(1, 1), color.RGBA{}, "image/png"},
	} {
		thumb, img := build(t, read(t, name), Request{Width: 60, Height: 40, MaxPixels: plenty, Animated: true})
		if thumb.Type != want.mime || thumb.Width != 60 || !near(img.At(want.at.X, want.at.Y), want.color, 30) {
			t.Errorf("%s: %s, %d by %d, %v", name, thumb.Type, thumb.Width, thumb.Height, img.At(want.at.X, want.at.Y))
		}
	}
}

func TestAnimation(t *testing.T) {
	data := read(t, "animated.gif")
	still, _ := build(t, data, Request{Width: 60, Height: 40, MaxPixels: plenty})
	if still.Type == "image/gif" {
		t.Error("it moves")
	}
	thumb, _ := build(t, data, Request{Width: 60, Height: 40, MaxPixels: plenty, Animated: true})
	all, err := gif.DecodeAll(bytes.NewReader(thumb.Data))
	if err != nil {
		t.Fatal(err)
	}
	if len(all.Image) != 4 || all.Delay[0] != 10 {
		t.Errorf("%d frames, %v", len(all.Image), all.Delay)
	}
	for i, want := range []color.RGBA{{255, 0, 0, 255}, {0, 0, 255, 255}, {0, 0, 255, 255}, {0, 0, 255, 255}} {
		if got := all.Image[i].At(55, 35); !near(got, want, 40) {
			t.Errorf("frame %d: %v", i, got)
		}
		if got := all.Image[i].At(5*i+7, 12); !near(got, color.RGBA{0, 255, 0, 255}, 60) {
			t.Errorf("frame %d: %v where the square is", i, got)
		}
	}
	_, err = Make(bytes.NewReader(data), Info{Format: "gif", Width: 120, Height: 80, Orientation: 1}, Request{Width: 60, Height: 40, Animated: true, MaxPixels: 120 * 80 * 3})
	if !errors.Is(err, ErrTooLarge) {
		t.Errorf("too many frames: %v", err)
	}
}

func TestHostile(t *testing.T) {
	large := encoded(t, gradient(100, 100), "png")
	large[16], large[17], large[20], large[21] = 0x7f, 0xff, 0x7f, 0xff // what its header says
	for name, data := range map[string][]byte{
		"nothing":              nil,
		"text":                 []byte("hello"),
		"a start alone":        []byte("\x89PNG\r\n\x1a\n"),
		"a JPEG's start alone": {0xff, 0xd8, 0xff, 0xe1, 0, 0},
		"RIFF":                 []byte("RIFF\xff\xff\xff\xffWEBPVP8X\xff\xff\xff\xff"),
		"half a picture":       encoded(t, gradient(200, 200), "jpeg")[:2000],
		"half a PNG":           encoded(t, gradient(200, 200), "png")[:200],
		"half a GIF":           read(t, "animated.gif")[:300],
		"half a WebP":          read(t, "animated.webp")[:200],
		"a wrong size":         large,
	} {
		r := bytes.NewReader(data)
		info, err := Look(r)
		if err == nil {
			_, err = Make(r, info, Request{Width: 10, Height: 10, MaxPixels: 1 << 24, Animated: true})
		}
		if !errors.Is(err, ErrUnsupported) && !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: %v", name, err)
		}
	}
	bomb := Info{Format: "png", Width: 1 << 30, Height: 1 << 30, Orientation: 1}
	if _, err := Make(bytes.NewReader(nil), bomb, Request{Width: 1, Height: 1, MaxPixels: 1 << 24}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a bomb: %v", err)
	}
}

func FuzzMake(f *testing.F) {
	entries, err := os.ReadDir("testdata")
	if err != nil {
		f.Fatal(err)
	}
	for _, e := range entries {
		if !e.IsDir() {
			f.Add(read(f, e.Name()), 30, 20, true, true)
		}
	}
	f.Add(encoded(f, gradient(40, 30), "png"), 20, 20, true, false)
	f.Fuzz(func(t *testing.T, data []byte, w, h int, crop, animated bool) {
		if w > 1000 || h > 1000 {
			return
		}
		r := bytes.NewReader(data)
		info, err := Look(r)
		if err != nil {
			return
		}
		thumb, err := Make(r, info, Request{Width: w, Height: h, Crop: crop, Animated: animated, MaxPixels: 1 << 20})
		if err != nil {
			return
		}
		if thumb.Width > info.Width || thumb.Height > info.Height {
			t.Errorf("%d by %d of %d by %d", thumb.Width, thumb.Height, info.Width, info.Height)
		}
	})
}

func BenchmarkJPEG12Megapixels(b *testing.B) {
	data := encoded(b, gradient(4000, 3000), "jpeg")
	for b.Loop() {
		build(b, data, Request{Width: 800, Height: 600, MaxPixels: plenty})
	}
}
