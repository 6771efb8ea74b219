// Package migrations holds the schema: numbered scripts, each applied once, in order, in a
// transaction. A script that has been released is never edited; a change is a new script.
//
// A line that ends with "-- sqlite" or "-- postgres" is for that database alone. Times are
// milliseconds since 1970 in BIGINT; JSON is TEXT and never queried by JSON operators.
package migrations

import "embed"

// Files are the scripts, named "NNNN_title.sql".
//
//go:embed *.sql
var Files embed.FS
