package thumbnail

import (
	"image"
	"image/draw"
)

// average makes a part of a picture k times smaller, or a little less: each pixel is the mean
// of a square. It gives the smaller picture, and what of it the part is.
func average(src image.Image, from image.Rectangle, k int) (image.Image, image.Rectangle) {
	if y, ok := src.(*image.YCbCr); ok {
		if small, part, ok := averageYCbCr(y, from, k); ok {
			return small, part
		}
	}
	w, h := (from.Dx()+k-1)/k, (from.Dy()+k-1)/k
	dst := image.NewRGBA(image.Rect(0, 0, w, h))
	strip := image.NewRGBA(image.Rect(0, 0, from.Dx(), k))
	sums := make([]uint32, 4*w)
	for row := range h {
		rows := min(k, from.Dy()-row*k)
		part := image.Rect(0, 0, from.Dx(), rows)
		draw.Draw(strip, part, src, image.Pt(from.Min.X, from.Min.Y+row*k), draw.Src)
		clear(sums)
		for y := range rows {
			line := strip.Pix[y*strip.Stride:]
			for x := range from.Dx() {
				s, p := sums[x/k*4:], line[4*x:]
				s[0] += uint32(p[0])
				s[1] += uint32(p[1])
				s[2] += uint32(p[2])
				s[3] += uint32(p[3])
			}
		}
		out := dst.Pix[row*dst.Stride:]
		for x := range w {
			n := uint32(rows * min(k, from.Dx()-x*k))
			for c := range 4 {
				out[4*x+c] = uint8((sums[4*x+c] + n/2) / n)
			}
		}
	}
	return dst, dst.Bounds()
}

// averageYCbCr is average for what a JPEG decodes to, without a detour by colours. ok is false
// where the colours are sampled in a way that it does not know.
func averageYCbCr(src *image.YCbCr, from image.Rectangle, k int) (small *image.YCbCr, part image.Rectangle, ok bool) {
	dx, dy := 1, 1 // how many pixels share a colour
	switch src.SubsampleRatio {
	case image.YCbCrSubsampleRatio444:
	case image.YCbCrSubsampleRatio422:
		dx = 2
	case image.YCbCrSubsampleRatio420:
		dx, dy = 2, 2
	case image.YCbCrSubsampleRatio440:
		dy = 2
	default:
		return nil, part, false
	}
	if dx == 2 || dy == 2 {
		k &^= 1 // so that no square ends inside of a colour
		from.Min.X &^= 1
		from.Min.Y &^= 1
	}
	w, h := (from.Dx()+k-1)/k, (from.Dy()+k-1)/k
	small = image.NewYCbCr(image.Rect(0, 0, w, h), image.YCbCrSubsampleRatio444)
	averagePlane(small.Y, small.YStride, src.Y[src.YOffset(from.Min.X, from.Min.Y):], src.YStride, from.Dx(), from.Dy(), k, k)
	c := src.COffset(from.Min.X, from.Min.Y)
	cw, ch := (from.Dx()+dx-1)/dx, (from.Dy()+dy-1)/dy
	averagePlane(small.Cb, small.CStride, src.Cb[c:], src.CStride, cw, ch, k/dx, k/dy)
	averagePlane(small.Cr, small.CStride, src.Cr[c:], src.CStride, cw, ch, k/dx, k/dy)
	return small, small.Bounds(), true
}

// averagePlane writes the means of rectangles of kx by ky values of a plane of width by height.
func averagePlane(dst []uint8, dstStride int, src []uint8, stride, width, height, kx, ky int) {
	w, h := (width+kx-1)/kx, (height+ky-1)/ky
	sums := make([]uint32, w)
	for row := range h {
		rows := min(ky, height-row*ky)
		clear(sums)
		for y := range rows {
			line := src[(row*ky+y)*stride:][:width]
			for x := range w {
				var sum uint32
				for _, v := range line[x*kx : min((x+1)*kx, width)] {
					sum += uint32(v)
				}
				sums[x] += sum
			}
		}
		out := dst[row*dstStride:]
		for x := range w {
			n := uint32(rows * min(kx, width-x*kx))
			out[x] = uint8((sums[x] + n/2) / n)
		}
	}
}
