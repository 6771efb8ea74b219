package config

import (
	"bytes"
	_ "embed"
	"strconv"

	"parley/internal/id"
)

//go:embed sample.yaml
var sample []byte

// Sample is a configuration file for the named server: every setting with its default,
// commented out, and what it does.
func Sample(name id.ServerName) []byte {
	// In quotes, because [::1] and 1.2 are server names, and something else in YAML.
	return bytes.Replace(sample, []byte(`"example.org"`), []byte(strconv.Quote(string(name))), 1)
}
