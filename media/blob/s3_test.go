package blob_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"parley/media/blob"
)

// startS3 starts an S3 server whose buckets are the folders of dir, and gives its address.
func startS3(t *testing.T, dir string) string {
	t.Helper()
	binary := os.Getenv("PARLEY_TEST_S3")
	if binary == "" {
		const reason = "PARLEY_TEST_S3 is not set (test/s3.sh builds a server)"
		if slices.Contains(strings.Split(os.Getenv("PARLEY_TEST_REQUIRE"), ","), "s3") {
			t.Fatal("s3 is required here: " + reason)
		}
		t.Skip("SKIPPED s3: " + reason)
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	free.Close()
	cmd := exec.Command(binary, "serve", "s3", dir, "--addr", address, "--auth-key", "key,secret", "--config", "", "--cache-dir", t.TempDir())
	var logs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &logs, &logs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(exited)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-exited
		if t.Failed() {
			t.Logf("the S3 server said: %s", logs.String())
		}
	})
	for {
		if c, err := net.Dial("tcp", address); err == nil {
			c.Close()
			return "http://" + address
		}
		select {
		case <-exited:
			t.Fatal("the S3 server ended")
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func TestS3(t *testing.T) {
	dir, spool := t.TempDir(), t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "bucket"), 0o700); err != nil {
		t.Fatal(err)
	}
	o := blob.S3Options{Endpoint: startS3(t, dir), Region: "us-east-1", Bucket: "bucket", AccessKey: "key", SecretKey: "secret", Spool: spool}
	for _, prefix := range []string{"", "some/where"} {
		o.Prefix = prefix
		s, err := blob.NewS3(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		conform(t, s)
		// One that is sent in parts.
		large := bytes.Repeat([]byte("0123456789abcdef"), 40<<20/16)
		if info := put(t, s, large); info.Hash != sha256.Sum256(large) {
			t.Errorf("stored %+v", info)
		}
		b, err := s.Open(t.Context(), sha256.Sum256(large))
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.New()
		if n, err := sum.Write(readAll(t, b)); n != len(large) || err != nil || blob.Hash(sum.Sum(nil)) != sha256.Sum256(large) {
			t.Errorf("read %d bytes, %v", n, err)
		}
		if err := s.Delete(t.Context(), sha256.Sum256(large)); err != nil {
			t.Error(err)
		}
	}
	left, err := os.ReadDir(spool)
	if err != nil || len(left) != 0 {
		t.Errorf("%v are left, %v", left, err)
	}
	// What others keep in the bucket is none of ours.
	s, err := blob.NewS3(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "bucket", "else"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Each(t.Context(), func(i blob.Info) error { return errors.New(i.Hash.String()) }); err != nil {
		t.Error(err)
	}
	for what, change := range map[string]func(*blob.S3Options){
		"no such bucket": func(o *blob.S3Options) { o.Bucket = "nothing" },
		"a wrong key":    func(o *blob.S3Options) { o.SecretKey = "wrong" },
		"no address":     func(o *blob.S3Options) { o.Endpoint = "s3.example.org" },
	} {
		bad := o
		change(&bad)
		if _, err := blob.NewS3(t.Context(), bad); err == nil {
			t.Errorf("%s: it was opened", what)
		}
	}
	// Whoever goes away ends what they began, and nothing is left of it.
	w, err := s.Create(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("gone")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.Commit(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	w.Abort()
	if _, err := s.Stat(t.Context(), sha256.Sum256([]byte("gone"))); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("%v", err)
	}
	if left, err := os.ReadDir(spool); err != nil || len(left) != 0 {
		t.Errorf("%v are left, %v", left, err)
	}
}
