package dag

import (
	"bufio"
	"fmt"
	"html"
	"io"
	"unicode/utf8"
)

// The drawing's measures, in pixels.
const (
	margin    = 24
	headRoom  = 76 // for title and legend
	rowHeight = 26
	noteLine  = 17 // of what a resolution did
	laneWidth = 22
	radius    = 6
	textSize  = 13
	charWidth = 7.9 // of the fixed-width font at that size
	maxText   = 150 // characters in a line
)

const style = `text{font:13px ui-monospace,"DejaVu Sans Mono",Menlo,monospace;fill:#1f2328}
.title{font-weight:bold;font-size:15px}.dim{fill:#656d76}.took{fill:#1a7f37}.dropped{fill:#b3261e}
.edge{fill:none;stroke:#8c959f;stroke-width:2}.out{stroke-dasharray:3 3}
.dot{stroke:#0550ae;stroke-width:2;fill:#0969da}.message{fill:#fff}.soft{stroke:#bc6a00;fill:#ffe7c2}
.rejected{stroke:#b3261e;fill:#ffdad6}.outlier{stroke:#8c959f;fill:#eaeef2}.tip{fill:none;stroke:#1a7f37;stroke-width:2}
.mark{fill:#fff3b0}.merge{fill:#f3f0fa}`

// svg is a drawing on its way.
type svg struct {
	*bufio.Writer
	y     []int // of each row
	textX int
	width int
}

// SVG draws the graph, the oldest event on top, a line for each.
func SVG(w io.Writer, g Graph) error {
	l := newLayout(g)
	s := &svg{Writer: bufio.NewWriter(w), textX: margin + (l.lanes+1)*laneWidth}
	y := headRoom
	longest := 60
	for i := range l.rows {
		s.y = append(s.y, y)
		y += rowHeight + noteLine*len(l.rows[i].Resolution)
		longest = max(longest, utf8.RuneCountInString(rowText(&l.rows[i])))
		for j := range l.rows[i].Resolution {
			longest = max(longest, 4+utf8.RuneCountInString(l.rows[i].Resolution[j].label()))
		}
	}
	s.width = s.textX + int(float64(min(longest, maxText))*charWidth) + margin
	fmt.Fprintf(s, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %[1]d %[2]d">`+"\n", s.width, y+margin)
	fmt.Fprintf(s, "<style>%s</style>\n<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n", style)
	s.text(margin, margin+4, "title", fmt.Sprintf("%s: %d events", g.Room, len(g.Events)))
	s.legend()
	for i := range l.rows {
		s.background(&l.rows[i], s.y[i])
	}
	for i := range l.rows {
		s.edges(l, i)
	}
	for i := range l.rows {
		s.row(&l.rows[i], s.y[i])
	}
	s.WriteString("</svg>\n")
	return s.Flush()
}

func laneX(lane int) int { return margin + laneWidth/2 + lane*laneWidth }

func (s *svg) text(x, y int, class, text string) {
	if utf8.RuneCountInString(text) > maxText {
		text = string([]rune(text)[:maxText-1]) + "…"
	}
	fmt.Fprintf(s, `<text x="%d" y="%d"`, x, y)
	if class != "" {
		fmt.Fprintf(s, ` class="%s"`, class)
	}
	// Spaces in a row are kept apart for the columns' sake.
	fmt.Fprintf(s, ` xml:space="preserve">%s</text>`+"\n", clean(text))
}

// clean makes text fit for XML, which some characters are not in any form.
func clean(text string) string {
	safe := []rune(text)
	for i, c := range safe {
		if c < ' ' || c == 0xfffe || c == 0xffff {
			safe[i] = utf8.RuneError
		}
	}
	return html.EscapeString(string(safe))
}

func (s *svg) legend() {
	x, state := margin, ""
	for _, k := range []struct {
		text string
		row  row
	}{
		{"state event", row{Event: Event{StateKey: &state}}},
		{"other event", row{}},
		{"forward extremity", row{Event: Event{StateKey: &state, Extremity: true}}},
		{"soft-failed", row{Event: Event{StateKey: &state, Status: SoftFailed}}},
		{"rejected", row{Event: Event{StateKey: &state, Status: Rejected}}},
		{"outlier", row{Event: Event{StateKey: &state, Status: Outlier}}},
	} {
		s.symbol(&k.row, x+radius, margin+26)
		s.text(x+3*radius, margin+30, "dim", k.text)
		x += 4*radius + int(float64(len(k.text))*charWidth) + 14
	}
}

func (s *svg) background(r *row, y int) {
	class := "mark"
	if !r.Marked {
		if len(r.Resolution) == 0 {
			return
		}
		class = "merge"
	}
	fmt.Fprintf(s, `<rect x="%d" y="%d" width="%d" height="%d" rx="4" class="%s"/>`+"\n",
		s.textX-8, y-rowHeight/2, s.width-s.textX-margin/2, rowHeight-2+noteLine*len(r.Resolution), class)
}

// edges draws the ways from a row to those that it follows.
func (s *svg) edges(l layout, i int) {
	r := &l.rows[i]
	x, y := laneX(r.lane), s.y[i]
	if r.missing {
		fmt.Fprintf(s, `<path d="M%d %dv%d" class="edge out"/>`+"\n", x, y, -rowHeight/2)
	}
	for _, e := range r.edges {
		from, lane := laneX(l.rows[e.from].lane), laneX(e.lane)
		top, bottom := s.y[e.from], y
		fmt.Fprintf(s, `<path d="M%d %d`, from, top)
		if lane != from {
			fmt.Fprintf(s, `C%d %d %d %d %d %d`, from, top+rowHeight/2, lane, top+rowHeight/2, lane, top+rowHeight)
		}
		if lane != x {
			fmt.Fprintf(s, `V%dC%d %d %d %d %d %d`, bottom-rowHeight, lane, bottom-rowHeight/2, x, bottom-rowHeight/2, x, bottom)
		} else {
			fmt.Fprintf(s, `V%d`, bottom)
		}
		s.WriteString(`" class="edge"/>` + "\n")
	}
}

func rowText(r *row) string {
	when := r.Time.UTC().Format("2006-01-02 15:04:05")
	s := fmt.Sprintf("%-9s  %s  %s  %s", short(r.ID), when, r.Sender, r.label())
	if r.Status != Accepted {
		s += "  [" + r.Status.String() + "]"
	}
	return s
}

func (s *svg) row(r *row, y int) {
	fmt.Fprintf(s, "<g><title>%s\ndepth %d, %s</title>\n", clean(string(r.ID)), r.Depth, r.Status)
	s.symbol(r, laneX(r.lane), y)
	class := ""
	if r.StateKey == nil {
		class = "dim"
	}
	if r.Status == Rejected {
		class = "dropped"
	}
	s.text(s.textX, y+textSize/3, class, rowText(r))
	s.WriteString("</g>\n")
	for i := range r.Resolution {
		v := &r.Resolution[i]
		class := "dropped"
		if v.Taken {
			class = "took"
		}
		s.text(s.textX, y+textSize/3+noteLine*(i+1), class, "    "+v.label())
	}
}

// symbol draws an event: square for state, round for others, twice for what stands for many.
func (s *svg) symbol(r *row, x, y int) {
	class := "dot"
	switch r.Status {
	case SoftFailed:
		class += " soft"
	case Rejected:
		class += " rejected"
	case Outlier:
		class += " outlier"
	}
	if r.Extremity {
		fmt.Fprintf(s, `<circle cx="%d" cy="%d" r="%d" class="tip"/>`+"\n", x, y, radius+4)
	}
	if r.StateKey != nil {
		fmt.Fprintf(s, `<rect x="%d" y="%d" width="%d" height="%[3]d" class="%s"/>`+"\n", x-radius+1, y-radius+1, 2*radius-2, class)
	} else {
		if r.folded > 0 {
			fmt.Fprintf(s, `<circle cx="%d" cy="%d" r="%d" class="dot message"/>`+"\n", x, y-3, radius-1)
		}
		fmt.Fprintf(s, `<circle cx="%d" cy="%d" r="%d" class="%s message"/>`+"\n", x, y, radius-1, class)
	}
	if r.Status == Rejected {
		fmt.Fprintf(s, `<path d="M%d %dl%d %[3]dm0 %d l%[4]d %[3]d" class="dot rejected"/>`+"\n", x-radius+1, y-radius+1, 2*radius-2, -(2*radius - 2))
	}
}
