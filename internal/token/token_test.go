package token

import (
	"errors"
	"testing"
)

func FuzzParse(f *testing.F) {
	for _, s := range []string{"s1_A", "s-5_A", "s_A", "", "s1", "s99999999999999999999_A", "s+1_A", "x1_A"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		pos, err := Parse("A", s)
		if err == nil {
			if again, err := Parse("A", Format("A", pos)); err != nil || again != pos {
				t.Errorf("%q: %d came back as %d, %v", s, pos, again, err)
			}
		}
	})
}

func TestEpoch(t *testing.T) {
	if _, err := Parse("B", Format("A", 7)); !errors.Is(err, ErrEpoch) {
		t.Errorf("a token of another log: %v", err)
	}
	if pos, err := Parse("A", Format("A", -7)); err != nil || pos != -7 {
		t.Errorf("got %d, %v", pos, err)
	}
}
