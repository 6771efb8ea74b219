package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"image"
	"image/jpeg"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	fileSize  = 100_000_000
	fileRuns  = 7
	fileAtOne = 20
)

// files: large files up and down, beside what the disk does, and thumbnails.
func (b *bench) files() error {
	g, err := b.ground("files")
	if err != nil {
		return err
	}
	users, err := g.makeUsers("u", 1)
	if err != nil {
		return err
	}
	n, err := b.start(g, "full")
	if err != nil {
		return err
	}
	defer n.stop()
	f := &filer{n: n, token: users[0].token, block: make([]byte, fileSize)}
	_, _ = rand.NewChaCha8([32]byte{}).Read(f.block)
	if err := b.upAndDown(f); err != nil {
		return err
	}
	if err := b.manyFiles(f); err != nil {
		return err
	}
	return b.thumbnails(f)
}

// filer uploads and downloads.
type filer struct {
	n     *node
	token string
	block []byte
	count uint64
}

func (f *filer) do(method, path string, body io.Reader, size int64) (*http.Response, error) {
	req, err := http.NewRequest(method, "http://"+f.n.address+path, body)
	if err != nil {
		return nil, err
	}
	req.ContentLength = size
	req.Header.Set("Authorization", "Bearer "+f.token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1000))
		resp.Body.Close()
		return nil, fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, text)
	}
	return resp, nil
}

// upload gives the path of what was uploaded, behind "download/" or "thumbnail/".
func (f *filer) upload(body io.Reader, size int64) (string, error) {
	resp, err := f.do("POST", "/_matrix/media/v3/upload", body, size)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var answer struct {
		URI string `json:"content_uri"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return "", err
	}
	return strings.TrimPrefix(answer.URI, "mxc://"), nil
}

// next is a content of fileSize that there was not before.
func (f *filer) next() io.Reader {
	f.count++
	head := binary.BigEndian.AppendUint64(nil, f.count)
	return io.MultiReader(bytes.NewReader(head), bytes.NewReader(f.block[8:]))
}

func (b *bench) upAndDown(f *filer) error {
	var disk, up, down []time.Duration
	for range b.scale(fileRuns) {
		// The disk's own speed, in the same minute: it is shared, and changes.
		target := filepath.Join(b.scratch, "dd")
		start := time.Now()
		if out, err := exec.Command("dd", "if=/dev/zero", "of="+target, "bs=1000000", "count=100", "conv=fsync").CombinedOutput(); err != nil {
			return fmt.Errorf("dd: %w: %s", err, out)
		}
		disk = append(disk, time.Since(start))
		if err := os.Remove(target); err != nil {
			return err
		}
		start = time.Now()
		name, err := f.upload(f.next(), fileSize)
		if err != nil {
			return err
		}
		up = append(up, time.Since(start))
		start = time.Now()
		resp, err := f.do("GET", "/_matrix/client/v1/media/download/"+name, nil, 0)
		if err != nil {
			return err
		}
		size, err := io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if err != nil {
			return err
		}
		if size != fileSize {
			b.wrong("of a file of %d bytes came %d", int64(fileSize), size)
		}
		down = append(down, time.Since(start))
	}
	rate := func(times []time.Duration) float64 { return fileSize / 1e6 / percentile(times, 50).Seconds() }
	b.row("dd with fsync, 100 MB", "", "%.0f MB/s", rate(disk))
	b.row("upload of 100 MB", "over half of dd", "%.0f MB/s, %.2f of dd", rate(up), rate(up)/rate(disk))
	b.row("download of 100 MB", "over 3 times dd", "%.0f MB/s, %.1f times dd", rate(down), rate(down)/rate(disk))
	return nil
}

func (b *bench) manyFiles(f *filer) error {
	before, err := f.n.memory()
	if err != nil {
		return err
	}
	stop, most := make(chan struct{}), make(chan int64)
	go func() {
		var peak int64
		for {
			select {
			case <-stop:
				most <- peak
				return
			case <-time.After(10 * time.Millisecond):
				if m, err := f.n.memory(); err == nil {
					peak = max(peak, m)
				}
			}
		}
	}()
	contents := make([]io.Reader, fileAtOne)
	for i := range contents {
		contents[i] = f.next()
	}
	err = each(fileAtOne, func(i int) error {
		_, err := f.upload(contents[i], fileSize)
		return err
	})
	close(stop)
	peak := <-most
	if err != nil {
		return err
	}
	b.row("20 uploads of 100 MB at once", "under 40 MB", "memory grows by %.1f MB", float64(peak-before)/1e6)
	return nil
}

// thumbnails: photographs of 12 megapixels, each of which is new.
func (b *bench) thumbnails(f *filer) error {
	var times []time.Duration
	for i := range b.scale(10) {
		photo, err := photograph(4000, 3000, uint64(i))
		if err != nil {
			return err
		}
		name, err := f.upload(bytes.NewReader(photo), int64(len(photo)))
		if err != nil {
			return err
		}
		before, err := f.n.usage()
		if err != nil {
			return err
		}
		resp, err := f.do("GET", "/_matrix/client/v1/media/thumbnail/"+name+"?width=640&height=480&method=scale", nil, 0)
		if err != nil {
			return err
		}
		small, err := jpeg.DecodeConfig(resp.Body)
		resp.Body.Close()
		if err != nil || small.Width != 640 || small.Height != 480 {
			b.wrong("a thumbnail is %+v, %v", small, err)
		}
		used, err := f.n.since(before)
		if err != nil {
			return err
		}
		times = append(times, used.cpu)
	}
	slices.Sort(times)
	b.row("thumbnail of a JPEG of 12 megapixels", "under 250 ms", "%v of CPU (%v to %v)", times[len(times)/2], times[0], times[len(times)-1])
	return nil
}

// photograph is a JPEG with about as much detail as one that was taken.
func photograph(width, height int, seed uint64) ([]byte, error) {
	random := rand.New(rand.NewPCG(seed, 1))
	img := image.NewYCbCr(image.Rect(0, 0, width, height), image.YCbCrSubsampleRatio420)
	for y := range height {
		for x := range width {
			img.Y[img.YOffset(x, y)] = uint8(x*160/width + y*60/height + random.IntN(24))
		}
	}
	for i := range img.Cb {
		img.Cb[i], img.Cr[i] = uint8(100+i%50), uint8(120+i/4000%40)
	}
	var out bytes.Buffer
	err := jpeg.Encode(&out, img, &jpeg.Options{Quality: 88})
	return out.Bytes(), err
}
