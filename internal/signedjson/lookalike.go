package signedjson

import (
	"strings"

	"github.com/tidwall/gjson"
)

// Lookalike says whether who does not look at the case of letters would read a name as one of some
// others. Names of JSON are exact, but encoding/json reads "SENDER" as "sender" too, and of both the
// last: so one could be signed and the other be read.
func Lookalike(name string, names []string) bool {
	plain := true
	for i := 0; i < len(name) && plain; i++ {
		plain = name[i] < 0x80 && (name[i] < 'A' || name[i] > 'Z')
	}
	if plain { // as nearly all are
		return false
	}
	found := false
	for _, n := range names {
		if name == n {
			return false
		}
		found = found || strings.EqualFold(name, n)
	}
	return found
}

// Lookalikes says whether an object has names that would be read as one of some others.
func Lookalikes(object []byte, names []string) (found bool) {
	o := gjson.ParseBytes(object)
	if o.IsObject() {
		o.ForEach(func(name, _ gjson.Result) bool {
			found = Lookalike(name.Str, names)
			return !found
		})
	}
	return found
}
