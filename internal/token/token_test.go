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

func TestSliding(t *testing.T) {
	s := string(AppendSliding(nil, "A", 17, "L", 5, Connection{8, 3}))
	pos, seq, c, err := ParseSliding("A", "L", s)
	if err != nil || pos != 17 || seq != 5 || c != (Connection{8, 3}) {
		t.Errorf("%s is %d, %d, %v, %v", s, pos, seq, c, err)
	}
	if pos, err := Parse("A", s); err != nil || pos != 17 {
		t.Errorf("%s is no place to page from: %d, %v", s, pos, err)
	}
	for _, s := range []string{"s17_A", "s17_A_L.5", "s17_A_L.5_8", "s17_A_L.5_8.x", "s17_A_L.5_-8.1", "s17_A_L.5_8.1_2"} {
		if _, _, _, err := ParseSliding("A", "L", s); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", s, err)
		}
	}
}
