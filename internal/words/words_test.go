package words

import (
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"parley/internal/id"
)

func TestSplit(t *testing.T) {
	for text, want := range map[string][]string{
		"":                              nil,
		"!?_ -":                         nil,
		"Hello, WORLD":                  {"hello", "world"},
		"a\x00b\xffc":                   {"a", "b", "c"},
		"東京tower":                       {"東", "京", "tower"},
		"ÄRGER 42x":                     {"ärger", "42x"},
		strings.Repeat("x", 101) + " y": {"y"},
	} {
		if got := Split(text); !slices.Equal(got, want) {
			t.Errorf("Split(%q) = %q; want %q", text, got, want)
		}
	}
}

func TestPhrases(t *testing.T) {
	for _, test := range []struct {
		user id.UserID
		name string
		want []string
	}{
		{"@ann.lee:x.org", "Lee Ann", []string{"ann", "ann lee x org", "lee ann", "lee x org"}},
		{"@ann:x.org", "", []string{"ann x org"}},
		{"@-:x.org", "京子", []string{"京 子", "子"}},
	} {
		if got := Phrases(test.user, test.name); !slices.Equal(got, test.want) {
			t.Errorf("Phrases(%q, %q) = %q; want %q", test.user, test.name, got, test.want)
		}
	}
	many := Phrases("@a:x.org", strings.Repeat("é ", 32<<10))
	if len(many) > maxPhrases+1 {
		t.Errorf("a long name has %d phrases", len(many))
	}
	for _, p := range many {
		if len(p) > maxPhrase || !utf8.ValidString(p) {
			t.Errorf("%q is a phrase", p)
		}
	}
}
