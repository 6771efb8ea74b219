package config

import (
	"bytes"
	_ "embed"

	"parley/internal/id"
)

//go:embed sample.yaml
var sample []byte

// Sample is a configuration file for the named server: every setting with its default,
// commented out, and what it does.
func Sample(name id.ServerName) []byte {
	return bytes.Replace(sample, []byte("\nserver_name: example.org\n"), []byte("\nserver_name: "+string(name)+"\n"), 1)
}
