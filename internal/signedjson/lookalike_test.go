package signedjson_test

import (
	"testing"

	"parley/internal/signedjson"
)

func TestLookalikes(t *testing.T) {
	for text, want := range map[string]bool{
		`{"key":1,"Server":2}`: false, `{"Key":1}`: true, `{"key":1,"KEY":2}`: true, `{"\u212aey":1}`: true, `{"k\u0045y":1}`: true,
		`{"x":{"KEY":1}}`: false, `{"KEYS":1}`: false, `{"M.Key":1}`: true, `[{"KEY":1}]`: false, `"KEY"`: false, ``: false, `{"KEY"`: false, `{`: false,
	} {
		if got := signedjson.Lookalikes([]byte(text), []string{"key", "m.key"}); got != want {
			t.Errorf("%s: %v; want %v", text, got, want)
		}
	}
}
