// Package words says what the words of a text are, by which messages and people are found. It knows
// no language: words are what stands between spaces and signs, in lower case.
package words

import (
	"slices"
	"strings"
	"unicode"

	"parley/internal/id"
)

// maxLength is how long a word may be, in bytes; longer ones are left out, as they are no words of people's.
const maxLength = 100

// Split are the words of a text in lower case. Each character of scripts that put no spaces
// between words counts as one.
func Split(text string) []string {
	var out []string
	var b strings.Builder
	end := func() {
		if b.Len() > 0 && b.Len() <= maxLength {
			out = append(out, b.String())
		}
		b.Reset()
	}
	for _, r := range strings.ToLower(text) {
		switch {
		case unicode.In(r, unicode.Han, unicode.Hiragana, unicode.Katakana, unicode.Thai):
			end()
			b.WriteRune(r)
			end()
		case unicode.IsLetter(r) || unicode.IsDigit(r):
			b.WriteRune(r)
		case unicode.Is(unicode.Mn, r) && b.Len() > 0: // part of the letter before
		default:
			end()
		}
	}
	end()
	return out
}

const (
	// maxPhrases bounds the words of a name by which a user is found, and maxPhrase how much of what
	// follows each is kept, in bytes.
	maxPhrases, maxPhrase = 32, maxLength
)

// Phrase is how words are looked up among the phrases of Phrases, each of which begins with it where
// the words follow each other in the name.
func Phrase(words []string) string {
	text := strings.Join(words, " ")
	if len(text) > maxPhrase {
		text = strings.ToValidUTF8(text[:maxPhrase], "")
	}
	return text
}

// Phrases are what a user is found by, in order: their display name and their ID from each word of the
// name and of the ID's localpart on.
func Phrases(user id.UserID, name string) []string {
	var out []string
	in := func(words []string, starts int) {
		for i := range min(starts, maxPhrases) {
			out = append(out, Phrase(words[i:]))
		}
	}
	local := Split(user.Localpart())
	in(append(local, Split(string(user.Server()))...), len(local))
	named := Split(name)
	in(named, len(named))
	slices.Sort(out)
	return slices.Compact(out)
}
