package blob

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"net/url"
	"os"
	"path"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// S3Options say where a bucket is, and how to get in.
type S3Options struct {
	// Endpoint is the service's address, such as "https://s3.eu-central-1.amazonaws.com".
	Endpoint string
	// Region is where the bucket is; "" asks the service.
	Region string
	Bucket string
	// Prefix comes before the names of the objects.
	Prefix               string
	AccessKey, SecretKey string
	// Spool is a folder for what is being uploaded: its name is its hash, which is known when all of
	// it has come. "" is the system's folder for temporary files.
	Spool string
}

// S3 keeps blobs in a bucket of a service that speaks S3, as objects that are called after their
// hash. What others have in the bucket, it leaves alone.
type S3 struct {
	o      S3Options
	client *minio.Client
}

const (
	// partSize is in how large pieces a large object is sent. They are read from the spooled file
	// as they are sent.
	partSize = 16 << 20
	// s3Retries is how often the client tries.
	s3Retries = 4
	// s3Answer is how long the service may take to begin an answer.
	s3Answer = time.Minute
)

// NewS3 opens a bucket, which must be there.
func NewS3(ctx context.Context, o S3Options) (*S3, error) {
	u, err := url.Parse(o.Endpoint)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("the S3 endpoint %q is not an address such as https://s3.example.org", o.Endpoint)
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.ResponseHeaderTimeout = s3Answer
	transport.MaxIdleConnsPerHost = 16
	transport.DisableCompression = true // it is the object's bytes that are wanted
	client, err := minio.New(u.Host, &minio.Options{
		Creds: credentials.NewStaticV4(o.AccessKey, o.SecretKey, ""), Secure: u.Scheme == "https", Region: o.Region,
		Transport: transport, MaxRetries: s3Retries,
	})
	if err != nil {
		return nil, fmt.Errorf("open the bucket %s: %w", o.Bucket, err)
	}
	if o.Spool != "" {
		if err := os.MkdirAll(o.Spool, 0o700); err != nil {
			return nil, fmt.Errorf("make the folder for uploads: %w", err)
		}
		if err := removeStale(o.Spool); err != nil {
			return nil, err
		}
	}
	there, err := client.BucketExists(ctx, o.Bucket)
	if err != nil {
		return nil, fmt.Errorf("open the bucket %s: %w", o.Bucket, err)
	}
	if !there {
		return nil, fmt.Errorf("there is no bucket %s at %s", o.Bucket, o.Endpoint)
	}
	return &S3{o, client}, nil
}

// key is the name of a blob's object. Its folders are for those who look into the bucket with
// tools that show some thousand names badly.
func (s *S3) key(h Hash) string {
	name := h.String()
	return path.Join(s.o.Prefix, name[:2], name)
}

type s3Writer struct {
	s    *S3
	file *os.File
	hash hash.Hash
	size int64
}

// Create implements [Store].
func (s *S3) Create(context.Context) (Writer, error) {
	file, err := os.CreateTemp(s.o.Spool, "upload-*")
	if err != nil {
		return nil, fmt.Errorf("begin a file: %w", err)
	}
	return &s3Writer{s: s, file: file, hash: sha256.New()}, nil
}

func (w *s3Writer) Write(p []byte) (int, error) {
	n, err := w.file.Write(p)
	w.hash.Write(p[:n])
	w.size += int64(n)
	return n, err
}

// Commit sends the object also where there is one: that has the service know it as new.
func (w *s3Writer) Commit(ctx context.Context) (Info, error) {
	defer w.Abort()
	info := Info{Hash: Hash(w.hash.Sum(nil)), Size: w.size}
	if _, err := w.file.Seek(0, io.SeekStart); err != nil {
		return Info{}, fmt.Errorf("read a file: %w", err)
	}
	put, err := w.s.client.PutObject(ctx, w.s.o.Bucket, w.s.key(info.Hash), w.file, w.size,
		minio.PutObjectOptions{ContentType: "application/octet-stream", PartSize: partSize, NumThreads: 2})
	if err != nil {
		return Info{}, fmt.Errorf("send a file to the bucket: %w", err)
	}
	if put.Size != w.size {
		return Info{}, fmt.Errorf("the bucket has %d bytes of a file of %d", put.Size, w.size)
	}
	info.Stored = time.Now()
	return info, nil
}

func (w *s3Writer) Abort() {
	if w.file == nil {
		return
	}
	_ = w.file.Close()
	_ = os.Remove(w.file.Name())
	w.file = nil
}

type s3Blob struct {
	*minio.Object
	size int64
}

func (b s3Blob) Size() int64 { return b.size }

// Open implements [Store].
func (s *S3) Open(ctx context.Context, h Hash) (Blob, error) {
	object, err := s.client.GetObject(ctx, s.o.Bucket, s.key(h), minio.GetObjectOptions{})
	if err != nil {
		return nil, s3Error("open", err)
	}
	info, err := object.Stat()
	if err != nil {
		return nil, errors.Join(s3Error("open", err), object.Close())
	}
	return s3Blob{object, info.Size}, nil
}

// Stat implements [Store].
func (s *S3) Stat(ctx context.Context, h Hash) (Info, error) {
	info, err := s.client.StatObject(ctx, s.o.Bucket, s.key(h), minio.StatObjectOptions{})
	if err != nil {
		return Info{}, s3Error("look at", err)
	}
	return Info{Hash: h, Size: info.Size, Stored: info.LastModified}, nil
}

// Delete implements [Store].
func (s *S3) Delete(ctx context.Context, h Hash) error {
	err := s3Error("delete", s.client.RemoveObject(ctx, s.o.Bucket, s.key(h), minio.RemoveObjectOptions{}))
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}

// Each implements [Store].
func (s *S3) Each(ctx context.Context, fn func(Info) error) error {
	ctx, cancel := context.WithCancel(ctx) // ends the listing when fn has had enough
	defer cancel()
	prefix := s.o.Prefix
	if prefix != "" {
		prefix = strings.TrimSuffix(prefix, "/") + "/"
	}
	for object := range s.client.ListObjectsIter(ctx, s.o.Bucket, minio.ListObjectsOptions{Prefix: prefix, Recursive: true}) {
		if object.Err != nil {
			return fmt.Errorf("list the bucket: %w", object.Err)
		}
		h, err := ParseHash(path.Base(object.Key))
		if err != nil || object.Key != s.key(h) {
			continue // none of ours
		}
		if err := fn(Info{Hash: h, Size: object.Size, Stored: object.LastModified}); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// s3Error tells that there is no such object from all that may be wrong with a service.
func s3Error(what string, err error) error {
	if err == nil {
		return nil
	}
	if minio.ToErrorResponse(err).Code == minio.NoSuchKey {
		return ErrNotFound
	}
	return fmt.Errorf("%s an object of the bucket: %w", what, err)
}
