// Command parley is a Matrix homeserver, and the tools of those who run one.
//
// It alone knows every package: `serve` wires them together by hand, copying the settings of
// package config into each one's options.
package main

import (
	"context"
	"os"
)

func main() {
	m := Main{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Getenv: os.Getenv}
	os.Exit(m.Run(context.Background(), os.Args[1:]...))
}
