package main

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"parley/config"
)

func TestCommittedFilesAreUpToDate(t *testing.T) {
	root := filepath.Join("..", "..", "..")
	files, err := generate(root)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range files {
		got, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s is out of date; run: go run ./internal/gen/configdoc", name)
		}
	}
}

func TestUndocumentedSettingIsRefused(t *testing.T) {
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "config"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "config", "config.go"), []byte("package config\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := generate(root); err == nil {
		t.Error("no error although no setting has a comment")
	}
}

func TestScalar(t *testing.T) {
	for _, c := range []struct {
		value any
		want  string
	}{
		{30 * time.Second, "30s"},
		{10 * time.Minute, "10m"},
		{24 * time.Hour, "24h"},
		{90 * time.Minute, "1h30m"},
		{50 * config.MiB, "50 MiB"},
		{"12", `"12"`},
		{"", `""`},
		{"::1/128", `"::1/128"`},
		{":8448", `":8448"`},
		{"127.0.0.1:8008", "127.0.0.1:8008"},
		{[]string{"a", "b:c"}, `[a, "b:c"]`},
		{config.Rate{PerSecond: 0.5, Burst: 3}, "{per_second: 0.5, burst: 3}"},
		{config.Secret("hunter2"), `"(secret)"`},
	} {
		if got := scalar(reflect.ValueOf(c.value)); got != c.want {
			t.Errorf("scalar(%v) = %s, want %s", c.value, got, c.want)
		}
	}
}
