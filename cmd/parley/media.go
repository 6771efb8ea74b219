package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/spf13/cobra"

	"parley/config"
	"parley/federation/remote"
	"parley/internal/outgoing"
	"parley/media"
	"parley/media/blob"
	"parley/media/preview"
	"parley/storage"
)

// newMedia opens the media repository; servers is nil where the node talks to no other.
func newMedia(ctx context.Context, cfg *config.Config, db *storage.DB, servers *remote.Client, log *slog.Logger) (*media.Server, error) {
	store, err := newStore(ctx, cfg)
	if err != nil {
		return nil, err
	}
	o := media.Options{
		DB: db, Name: cfg.ServerName, Store: store,
		MaxUpload: int64(cfg.Limits.UploadSize), MaxRemote: int64(cfg.Media.RemoteSize), UserQuota: int64(cfg.Media.UserQuota),
		CacheBytes: int64(cfg.Media.CacheSize), CacheAge: cfg.Media.CacheAge,
		MaxPixels: cfg.Media.MaxPixels, Frozen: cfg.Media.UnauthenticatedBefore,
		Log: log.With(packageKey, "media"),
	}
	if servers != nil {
		o.Remote = servers
	}
	if p := cfg.Media.Previews; p.Enabled {
		o.Previews = preview.New(preview.Options{
			Dial:      outgoing.New(cfg.Outgoing.DenyNetworks, cfg.Outgoing.AllowNetworks).DialContext,
			UserAgent: "Parley/" + buildVersion() + " (preview)", Language: p.Language, DenyHosts: p.DenyHosts,
		})
	}
	return media.New(o)
}

// newStore opens the place of the files' bytes.
func newStore(ctx context.Context, cfg *config.Config) (blob.Store, error) {
	o := cfg.Media.S3
	if o.Endpoint == "" {
		return blob.NewDisk(cfg.MediaDirectory())
	}
	return blob.NewS3(ctx, blob.S3Options{
		Endpoint: o.Endpoint, Region: o.Region, Bucket: o.Bucket, Prefix: o.Prefix,
		AccessKey: o.AccessKey, SecretKey: o.SecretKey.Reveal(), Spool: filepath.Join(cfg.MediaDirectory(), "new"),
	})
}

func (m *Main) mediaCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "media", Short: "Look after uploaded files"}
	cmd.PersistentFlags().StringVar(&m.dataDir, "data", "", "data `folder` of the server, if it was started with --data")
	cmd.AddCommand(&cobra.Command{
		Use:   "verify",
		Short: "Read all files, and say which are lost or not what they were",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return m.withHearts(cmd.Context(), false, m.verifyMedia)
		},
	})
	return cmd
}

func (m *Main) verifyMedia(ctx context.Context, h *hearts) error {
	v, err := h.media.Verify(ctx)
	if err != nil {
		return err
	}
	for _, p := range v.Problems {
		what := "corrupt"
		if p.Lost {
			what = "lost"
		}
		fmt.Fprintf(m.Stdout, "%s: mxc://%s/%s (%s)\n", what, p.Origin, p.ID, p.Hash)
	}
	fmt.Fprintf(m.Stdout, "%d files; %d contents with thumbnails, %d bytes; %d of them unused\n", v.Files, v.Blobs, v.Bytes, v.Unused)
	if n := len(v.Problems); n > 0 {
		return errors.New("some files are lost or corrupt")
	}
	return nil
}
