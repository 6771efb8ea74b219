package signedjson_test

import (
	"testing"

	"parley/internal/signedjson"
)

func TestKeyTwice(t *testing.T) {
	for text, want := range map[string]bool{
		`{}`: false, `[]`: false, `"a"`: false, `{"a":1,"b":2}`: false, `{"a":1,"a":2}`: true,
		`{"a":{"a":1},"b":{"a":1}}`: false, `[{"a":1},{"a":1}]`: false, `{"x":[{"a":1,"a":1}]}`: true,
		`{"a":"a","b":"a"}`: false, `{"":1,"":2}`: true, `{"\"":1,"\"":2}`: true, `{"\\":1,"a\\":"{"}`: false,
		`{"a":{},"a":[]}`: true, `{"a":"\":","b":1}`: false, `}}`: false, `"a`: false, `{"a\`: false,
	} {
		if got := signedjson.KeyTwice([]byte(text)); got != want {
			t.Errorf("%s: %v; want %v", text, got, want)
		}
	}
}
