// Package glob matches names against patterns in which '*' stands for any characters, none
// of them too, and '?' for exactly one. It is for short names: push rules, which look at
// whole messages, have an automaton of their own.
//
// spec: appendices.md#glob-style-matching
package glob

// Match says whether a pattern matches a name, all of it. The case of letters matters. The
// work is at most the product of the two lengths.
func Match(pattern, name string) bool {
	p, n := []rune(pattern), []rune(name)
	i, j := 0, 0
	star, mark := -1, 0 // the last '*', and how far it has been tried
	for j < len(n) {
		switch {
		case i < len(p) && p[i] == '*':
			star, mark = i, j
			i++
		case i < len(p) && (p[i] == '?' || p[i] == n[j]):
			i++
			j++
		case star >= 0:
			mark++
			i, j = star+1, mark
		default:
			return false
		}
	}
	for i < len(p) && p[i] == '*' {
		i++
	}
	return i == len(p)
}
