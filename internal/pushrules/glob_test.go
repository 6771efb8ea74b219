package pushrules

import (
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestGlob(t *testing.T) {
	long := strings.Repeat("ab", 126)
	tests := []struct {
		pattern, text string
		all, words    bool
	}{
		// The specification's examples.
		{"lunc?*", "Lunch plans", true, true},
		{"lunc?*", "LUNCH", true, true},
		{"lunc?*", " lunch", false, true},
		{"lunc?*", "lunc", false, false},
		{"ex*ple", "An example event.", false, true},
		{"ex*ple", "exple", true, true},
		{"ex*ple", "An exciting triple-whammy", false, true},
		{"cake*lie", "cake is a lie", true, true},

		{"", "", true, true},
		{"", "x", false, true},
		{"*", "", true, true},
		{"*", "anything\nat all", true, true},
		{"**", "x", true, true},
		{"?", "", false, false},
		{"?", "é", true, true},
		{"?", "日本", false, true},
		{"??", "日本", true, true},
		{"t*", "Été", false, true}, // only the letters of ASCII make words
		{"été", "ÉTÉ", true, true},
		{"ΣΑΣ", "σας", true, true},
		{"k", "\u212a", true, true}, // the sign of the kelvin

		{"tea", "time for tea", false, true},
		{"tea", "teatime, tea", false, true},
		{"tea", "teatime", false, false},
		{"tea", "steam", false, false},
		{"tea", "tea_time", false, false},
		{"tea", "tea-time", false, true},
		{"tea", "tea4two", false, false},
		{"TEA", "(Tea)", false, true},
		{"te?", "a tEx here", false, true},
		{"te?", "a text", false, false},
		{"*ea", "he drank tea", true, true},
		{"t*a", "tuna", true, true},
		{"t*a", "tunas a", true, true},
		{"t*a", "at all", false, false},
		{":)", "hi :) there", false, true},
		{":)", "hi:)", false, true},
		{"a.c", "abc", false, false},
		{"[a]", "a", false, false},
		{`\*`, `\x`, true, true},
		{"aaa", "aaaa", false, false},
		{"aba", "ababa aba", false, true},
		{long + "*", long, true, true},
		{"?*" + long, "a" + long, true, true},
		{"*" + long, "x " + long[1:], false, false},
		{"a\x00b", "a\x00B", true, true},
	}
	for _, test := range tests {
		g, err := compileGlob(test.pattern)
		if err != nil {
			t.Errorf("%q: %v", test.pattern, err)
			continue
		}
		if got := g.matchAll(fold(test.text)); got != test.all {
			t.Errorf("%q matches all of %q: %v", test.pattern, test.text, got)
		}
		if got := g.matchWords(fold(test.text)); got != test.words {
			t.Errorf("%q matches words of %q: %v", test.pattern, test.text, got)
		}
	}
	if _, err := compileGlob(strings.Repeat("x", maxPattern) + "*"); err != nil {
		t.Errorf("the longest pattern: %v", err)
	}
	if _, err := compileGlob(strings.Repeat("x", maxPattern+1) + "*"); err == nil {
		t.Error("a pattern that is too long is taken")
	}
	if _, err := compileGlob(strings.Repeat("x", 5000)); err != nil {
		t.Errorf("a long pattern without wildcards: %v", err)
	}
}

// slowGlob is the specification's sentences in regular expressions, part by part of the text.
func slowGlob(pattern, text string, words bool) bool {
	expr := regexp.QuoteMeta(pattern)
	expr = strings.ReplaceAll(strings.ReplaceAll(expr, `\*`, `.*`), `\?`, `.`)
	re := regexp.MustCompile(`\A(?s:` + expr + `)\z`)
	if !words {
		return re.MatchString(text)
	}
	for i := range len(text) + 1 {
		for j := i; j <= len(text); j++ {
			if isBoundary(text, i) && isBoundary(text, j) && utf8.ValidString(text[i:j]) && re.MatchString(text[i:j]) {
				return true
			}
		}
	}
	return false
}

func compareGlob(t *testing.T, pattern, text string) {
	t.Helper()
	g, err := compileGlob(pattern)
	if err != nil {
		return
	}
	pattern, text = fold(pattern), fold(text)
	if got, want := g.matchAll(text), slowGlob(pattern, text, false); got != want {
		t.Errorf("%q matches all of %q: %v", pattern, text, got)
	}
	if got, want := g.matchWords(text), slowGlob(pattern, text, true); got != want {
		t.Errorf("%q matches words of %q: %v", pattern, text, got)
	}
}

// TestGlobRandom compares with what is slow and plain.
func TestGlobRandom(t *testing.T) {
	word := func(letters string, n int) string {
		all := []rune(letters)
		s := make([]rune, rand.IntN(n))
		for i := range s {
			s[i] = all[rand.IntN(len(all))]
		}
		return string(s)
	}
	for range 3000 {
		compareGlob(t, word("ab é?*", 6), word("aBé -", 9))
	}
	for range 20 {
		compareGlob(t, word("ab?*", 300), word("ab ", 40))
	}
}

func FuzzGlob(f *testing.F) {
	f.Add("ex*ple", "An example event.")
	f.Add("?*ß\xff", "\xffSS")
	f.Fuzz(func(t *testing.T, pattern, text string) {
		if len(text) > 60 || len(pattern) > 300 {
			return
		}
		compareGlob(t, pattern, text)
	})
}

// BenchmarkGlobWorst is what somebody might make up to keep us busy.
func BenchmarkGlobWorst(b *testing.B) {
	text := strings.Repeat("a", 65_000)
	for name, pattern := range map[string]string{"stars": strings.Repeat("*a", 125) + "b", "marks": strings.Repeat("a?", 125) + "b", "literal": strings.Repeat("a", 250)} {
		g, err := compileGlob(pattern)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				g.matchWords(text)
			}
		})
	}
}
