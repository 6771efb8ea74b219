package main

import (
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"github.com/tidwall/gjson"
)

// lazyMembers is the filter of a client that loads members as it needs them.
const lazyMembers = `{"room":{"state":{"lazy_load_members":true}}}`

// joining: a user of one node joins a large room of another.
func (b *bench) joining() error {
	members, messages := b.scale(20000), b.scale(30000)
	certificate, err := certify(b.scratch)
	if err != nil {
		return err
	}
	addresses, err := freeAddresses(2)
	if err != nil {
		return err
	}
	home := &ground{dir: filepath.Join(b.scratch, "home"), name: addresses[0], certificate: certificate}
	host := &ground{dir: filepath.Join(b.scratch, "host"), name: addresses[1], certificate: certificate}
	if err := errors.Join(home.lay(), host.lay()); err != nil {
		return err
	}
	newcomers, err := home.makeUsers("u", 1)
	if err != nil {
		return err
	}
	users, err := host.makeUsers("u", members)
	if err != nil {
		return err
	}
	room, err := host.makeRoom(users)
	if err != nil {
		return err
	}
	if err := host.say(room, users[0], messages); err != nil {
		return err
	}
	hostNode, err := b.start(host, "full")
	if err != nil {
		return err
	}
	defer hostNode.stop()
	homeNode, err := b.start(home, "full")
	if err != nil {
		return err
	}
	defer homeNode.stop()
	c, err := dial(homeNode.address, newcomers[0].token)
	if err != nil {
		return err
	}
	defer c.close()
	before, err := homeNode.usage()
	if err != nil {
		return err
	}
	start := time.Now()
	if _, err := c.do("POST", v3+"/join/"+url.PathEscape(string(room))+"?via="+url.QueryEscape(string(host.name)), []byte("{}")); err != nil {
		return err
	}
	joined := time.Since(start)
	path := "rooms.join." + strings.NewReplacer(".", `\.`, ":", `\:`).Replace(string(room))
	var lazy, all string
	answer, err := c.sync(&lazy, 0, url.QueryEscape(lazyMembers))
	if err != nil {
		return err
	}
	usable := time.Since(start)
	if n := len(gjson.GetBytes(answer, path+".timeline.events").Array()); n == 0 {
		b.wrong("the room is not in the first answer")
	}
	what := fmt.Sprintf("join a room of %d members and %d events on another node", members, members+messages)
	b.row(what+": first usable /sync", "under 10 s", "%v, of which the join took %v", usable.Round(time.Millisecond), joined.Round(time.Millisecond))

	if answer, err = c.do("GET", v3+"/rooms/"+url.PathEscape(string(room))+"/members", nil); err != nil {
		return err
	}
	whole := time.Since(start)
	if n := len(gjson.GetBytes(answer, "chunk").Array()); n != members+1 {
		b.wrong("%d members are listed", n)
	}
	if answer, err = c.sync(&all, 0, ""); err != nil {
		return err
	}
	if n := len(gjson.GetBytes(answer, path+".state.events").Array()); n < members {
		b.wrong("the first answer with all members has %d events of state", n)
	}
	used, err := homeNode.since(before)
	if err != nil {
		return err
	}
	b.row("  all members known; and shown in a /sync of all", "", "%v; %v; %.1f CPU-s, %.1f MB written",
		whole.Round(time.Millisecond), time.Since(start).Round(time.Millisecond), used.cpu.Seconds(), float64(used.written)/1e6)
	return nil
}
