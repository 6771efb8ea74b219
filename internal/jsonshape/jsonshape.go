// Package jsonshape says what a JSON text holds before anything is made of it: what is made of
// a list of zeros is many times larger than its text. It does not say whether the text is JSON;
// of what isn't, it may say anything.
package jsonshape

// DeeperThan says whether objects and arrays nest deeper than limit.
func DeeperThan(text []byte, limit int) bool {
	deeper, _ := over(text, limit, 0, len(text))
	return deeper
}

// MoreThan says whether there are more than limit entries in all objects and arrays of the first
// levels. With two levels, those of the lists of an object are counted and its own, and with one
// its own alone.
func MoreThan(text []byte, levels, limit int) bool {
	_, more := over(text, len(text), levels, limit)
	return more
}

// over goes through a text until it is deeper than maxDepth, or has more than limit entries in its
// first levels.
func over(text []byte, maxDepth, levels, limit int) (deeper, more bool) {
	depth, entries := 0, 0
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '{', '[':
			if depth++; depth > maxDepth {
				return true, false
			}
			if depth <= levels {
				entries++ // the first one, which no comma precedes
			}
		case ',':
			if depth <= levels {
				entries++
			}
		case '}', ']':
			depth--
		case '"':
			for i++; i < len(text) && text[i] != '"'; i++ {
				if text[i] == '\\' {
					i++
				}
			}
		}
		if entries > limit {
			return false, true
		}
	}
	return false, false
}
