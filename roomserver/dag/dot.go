package dag

import (
	"bufio"
	"fmt"
	"io"
	"strings"
)

// DOT writes the graph in the language of graphviz.
func DOT(w io.Writer, g Graph) error {
	b := bufio.NewWriter(w)
	fmt.Fprintf(b, "digraph %s {\n\tnode [fontname=\"monospace\", fontsize=10];\n", quote(string(g.Room)))
	events := sorted(g.Events)
	known := make(map[string]bool, len(events))
	for _, e := range events {
		known[string(e.ID)] = true
	}
	for _, e := range events {
		r := row{Event: e}
		lines := []string{short(e.ID) + "  " + string(e.Sender), r.label()}
		for i := range e.Resolution {
			lines = append(lines, e.Resolution[i].label())
		}
		fmt.Fprintf(b, "\t%s [label=%s%s];\n", quote(string(e.ID)), quote(lines...), attributes(&e))
		for _, p := range e.Prev {
			if known[string(p)] {
				fmt.Fprintf(b, "\t%s -> %s;\n", quote(string(e.ID)), quote(string(p)))
			} else {
				fmt.Fprintf(b, "\t%s -> %s [style=dashed];\n", quote(string(e.ID)), quote(string(p)))
			}
		}
	}
	b.WriteString("}\n")
	return b.Flush()
}

func attributes(e *Event) string {
	s := ", shape=ellipse"
	if e.StateKey != nil {
		s = ", shape=box"
	}
	if e.Extremity {
		s += ", peripheries=2"
	}
	switch {
	case e.Status == SoftFailed:
		s += ", style=filled, fillcolor=\"#ffe7c2\""
	case e.Status == Rejected:
		s += ", style=filled, fillcolor=\"#ffdad6\""
	case e.Status == Outlier:
		s += ", style=dotted"
	case e.Marked:
		s += ", style=filled, fillcolor=\"#fff3b0\""
	}
	return s
}

// quote makes a string of lines, each of which ends flush left.
func quote(lines ...string) string {
	escape := strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", " ")
	var b strings.Builder
	b.WriteByte('"')
	for _, line := range lines {
		b.WriteString(escape.Replace(line))
		if len(lines) > 1 {
			b.WriteString(`\l`)
		}
	}
	b.WriteByte('"')
	return b.String()
}
