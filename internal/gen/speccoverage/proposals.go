package main

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/token"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// titles are the proposals that the code names, and those that are worth a line although the specification has taken
// them up.
var titles = map[string]string{
	"1763": "Message retention",
	"2409": "Ephemeral events for application services (in v1.13)",
	"2666": "Rooms in common with another user (in v1.19)",
	"3202": "Encrypted application services (in v1.17: as which device one acts)",
	"3381": "Polls: their push rules",
	"3391": "Deleting account data",
	"3575": "Sliding sync, as Synapse simplified it",
	"3814": "Dehydrated devices",
	"3874": "Filtering by relation types",
	"3884": "Sliding sync: end-to-end encryption",
	"3885": "Sliding sync: messages to devices",
	"3890": "Account data of a device goes with the device",
	"3930": "Push rules of polls",
	"3959": "Sliding sync: account data",
	"3960": "Sliding sync: receipts",
	"3961": "Sliding sync: typing",
	"3967": "First cross-signing keys without authentication (in v1.11)",
	"4155": "Invite permission by users and servers (v1.18 has a part of it)",
	"4186": "Simplified sliding sync",
	"4203": "Messages to devices for application services",
	"4222": "The state after the timeline (in v1.16)",
	"4306": "Subscriptions to threads",
	"4308": "Sliding sync: subscriptions to threads",
	"4360": "Sliding sync: threads",
}

var proposal = regexp.MustCompile(`(?i)([a-z._]*)msc(\d{4})[a-z0-9._]*`)

// readProposals notes the names of proposals in a file's strings, and the proposals in its comments.
func (s *sources) readProposals(f *ast.File) {
	note := func(text string, name bool) {
		for _, m := range proposal.FindAllStringSubmatch(text, -1) {
			if _, ok := s.proposals[m[2]]; !ok {
				s.proposals[m[2]] = nil
			}
			if name && m[1] != "" && !slices.Contains(s.proposals[m[2]], m[0]) {
				s.proposals[m[2]] = append(s.proposals[m[2]], m[0])
			}
		}
	}
	for _, comment := range f.Comments {
		note(comment.Text(), false)
	}
	ast.Inspect(f, func(n ast.Node) bool {
		if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
			if text, err := strconv.Unquote(lit.Value); err == nil {
				note(text, true)
			}
		}
		return true
	})
}

func writeMSCs(out *bytes.Buffer, s *sources) error {
	out.WriteString("\n## Proposals\n\nWhat is served of proposals (MSCs) that are not in the specification, or were named otherwise before they were.\n\n" +
		"| MSC | what | names in the API |\n|---|---|---|\n")
	for number := range s.proposals {
		if titles[number] == "" {
			return fmt.Errorf("MSC%s is named in the code, but not in titles", number)
		}
	}
	for _, number := range slices.Sorted(maps.Keys(titles)) {
		names, ok := s.proposals[number]
		if !ok && !strings.Contains(titles[number], "(in v") {
			continue // not here yet
		}
		slices.Sort(names)
		for i, name := range names {
			names[i] = "`" + name + "`"
		}
		fmt.Fprintf(out, "| [MSC%s](https://github.com/matrix-org/matrix-spec-proposals/pull/%s) | %s | %s |\n",
			number, number, titles[number], strings.Join(names, ", "))
	}
	return nil
}
