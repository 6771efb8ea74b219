// Command s3 is a real S3 server for tests: rclone's `serve s3` over a folder, with none of its other parts.
// It is a module of its own, as Parley needs nothing of it.
package main

import (
	"github.com/rclone/rclone/cmd"

	_ "github.com/rclone/rclone/backend/local"
	_ "github.com/rclone/rclone/cmd/serve/s3"
)

func main() { cmd.Main() }
