package signedjson

import "bytes"

// KeyTwice says whether an object in a canonical JSON text has a key twice. Readers differ in
// which of the two they take, so that one could be signed and the other be read. As canonical
// form is sorted, the two are neighbours.
//
// spec: appendices.md#canonical-json
func KeyTwice(text []byte) bool {
	// Of each object and array that we are in: the last key, nil where there was none yet.
	var last [][]byte
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '{', '[':
			last = append(last, nil)
		case '}', ']':
			if len(last) == 0 {
				return false // no JSON
			}
			last = last[:len(last)-1]
		case '"':
			end := i + 1
			for end < len(text) && text[end] != '"' {
				if text[end] == '\\' {
					end++
				}
				end++
			}
			if end+1 < len(text) && text[end+1] == ':' && len(last) > 0 {
				key := text[i:end]
				if bytes.Equal(last[len(last)-1], key) {
					return true
				}
				last[len(last)-1] = key
			}
			i = end
		}
	}
	return false
}
