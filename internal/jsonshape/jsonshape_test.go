package jsonshape

import "testing"

func TestShape(t *testing.T) {
	for _, c := range []struct {
		text            string
		depth, one, two int
	}{
		{`1`, 0, 0, 0},
		{`{"a":1,"b":"{,[\",["}`, 1, 2, 2},
		{`{"a":[0,0,0],"b":[[1,2,3],{"x":1,"y":2}]}`, 3, 2, 7},
		{` [ [ 1 , 2 ] , "\\" , 3 ] `, 2, 3, 5},
	} {
		if DeeperThan([]byte(c.text), c.depth) || c.depth > 0 && !DeeperThan([]byte(c.text), c.depth-1) {
			t.Errorf("%s is not %d deep", c.text, c.depth)
		}
		for levels, n := range map[int]int{1: c.one, 2: c.two} {
			if MoreThan([]byte(c.text), levels, n) || n > 0 && !MoreThan([]byte(c.text), levels, n-1) {
				t.Errorf("%s has not %d entries in its first levels, which are %d", c.text, n, levels)
			}
		}
	}
}
