package pushrules

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxPattern bounds the characters of a pattern with wildcards, so that it has not more states than
// the bits of a set.
const maxPattern = 64*setWords - 1

const setWords = 4

// stateSet is a set of states; in state i, i characters of the pattern have been matched.
type stateSet [setWords]uint64

func (s *stateSet) add(i int)      { s[i/64] |= 1 << (i % 64) }
func (s *stateSet) has(i int) bool { return s[i/64]&(1<<(i%64)) != 0 }

// glob is a pattern with wildcards, matched without regard to case. Whatever the pattern and the
// text are, it looks at each character of the text once.
//
// spec: appendices.md#glob-style-matching
type glob struct {
	// literal is the pattern if it has no wildcards, and then there is no automaton.
	literal string
	*automaton
}

// automaton steps from character to character through all ways to match at once.
type automaton struct {
	length int
	// words is how many words of a set are in use.
	words int
	// needle is the longest part without wildcards. It is found or, mostly, not found much faster.
	needle string
	// stars are the states in which any character may be passed over.
	stars stateSet
	// next are the states from which a character leads on: all those before a '?' in
	// next[0], and those before the character, too, at its number.
	next []stateSet
	// ascii and other are the characters' numbers; 0 is for those that the pattern doesn't have.
	ascii [utf8.RuneSelf]uint8
	other map[rune]uint8
}

func compileGlob(pattern string) (glob, error) {
	pattern = fold(pattern)
	if !strings.ContainsAny(pattern, "*?") {
		return glob{literal: pattern}, nil
	}
	a := &automaton{next: make([]stateSet, 1)}
	for _, c := range pattern {
		if c == '*' {
			a.stars.add(a.length)
			continue
		}
		if a.length == maxPattern {
			return glob{}, fmt.Errorf("has more than %d characters", maxPattern)
		}
		if c != '?' && a.number(c) == 0 {
			a.setNumber(c, uint8(len(a.next)))
			a.next = append(a.next, stateSet{})
		}
		a.length++
	}
	i := 0
	for _, c := range pattern {
		switch c {
		case '*':
			continue
		case '?':
			for n := range a.next {
				a.next[n].add(i)
			}
		default:
			a.next[a.number(c)].add(i)
		}
		i++
	}
	a.words = a.length/64 + 1
	for part := range strings.FieldsFuncSeq(pattern, func(c rune) bool { return c == '*' || c == '?' }) {
		if len(part) > len(a.needle) {
			a.needle = part
		}
	}
	return glob{automaton: a}, nil
}

func (a *automaton) number(c rune) uint8 {
	if c < utf8.RuneSelf {
		return a.ascii[c]
	}
	return a.other[c]
}

func (a *automaton) setNumber(c rune, n uint8) {
	switch {
	case c < utf8.RuneSelf:
		a.ascii[c] = n
	case a.other == nil:
		a.other = map[rune]uint8{c: n}
	default:
		a.other[c] = n
	}
}

// step moves all states over a character, and says whether any is left.
func (a *automaton) step(s *stateSet, c rune) bool {
	next := &a.next[a.number(c)]
	carry, left := uint64(0), uint64(0)
	for w := range a.words {
		moved := s[w] & next[w]
		s[w] = s[w]&a.stars[w] | moved<<1 | carry
		carry = moved >> 63
		left |= s[w]
	}
	return left != 0
}

// matchAll says whether the pattern matches the whole text, which is folded.
func (g *glob) matchAll(text string) bool {
	if g.automaton == nil {
		return text == g.literal
	}
	if !strings.Contains(text, g.needle) {
		return false
	}
	s := stateSet{1}
	for _, c := range text {
		if !g.step(&s, c) {
			return false
		}
	}
	return s.has(g.length)
}

// matchWords says whether the pattern matches a part of the text, which is folded, that begins and
// ends at word boundaries.
func (g *glob) matchWords(text string) bool {
	if g.automaton == nil {
		return containsWords(text, g.literal)
	}
	if !strings.Contains(text, g.needle) {
		return false
	}
	var s stateSet
	alive := false
	for i, c := range text {
		if isBoundary(text, i) {
			s.add(0)
			if s.has(g.length) {
				return true
			}
			alive = true
		}
		if alive {
			alive = g.step(&s, c)
		}
	}
	s.add(0)
	return s.has(g.length)
}

// containsWords says whether a text has a part that begins and ends at word boundaries.
func containsWords(text, part string) bool {
	for from := 0; ; {
		i := strings.Index(text[from:], part)
		if i < 0 {
			return false
		}
		i += from
		if isBoundary(text, i) && isBoundary(text, i+len(part)) {
			return true
		}
		from = i + 1
	}
}

// isBoundary says whether a word may begin or end before byte i of the text.
//
// spec: client-server-api/modules/push.md#conditions
func isBoundary(text string, i int) bool {
	return i == 0 || i == len(text) || !isWord(text[i-1]) || !isWord(text[i])
}

func isWord(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_'
}

// fold makes texts the same that differ in case alone, character by character. What case is, is left
// to the server.
//
// spec: client-server-api/modules/push.md#conditions
func fold(s string) string {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return strings.Map(func(r rune) rune { return unicode.ToLower(unicode.ToUpper(r)) }, s)
		}
	}
	return strings.ToLower(s)
}
