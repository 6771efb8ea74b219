package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/tidwall/gjson"

	"parley/federation/remote"
	"parley/federation/remote/keyring"
	"parley/internal/id"
	"parley/internal/serverapi"
	"parley/storage"
)

// pair is two nodes, a and b, that reach each other over TLS, with rooms of b's in which users of both are.
type pair struct {
	a, b         *ground
	alice, bob   user
	rooms        []id.RoomID
	nodeA, nodeB *node
}

// pair lays the grounds of both, and has them start and share the rooms.
func (b *bench) pair(rooms int) (*pair, error) {
	certificate, err := certify(b.scratch)
	if err != nil {
		return nil, err
	}
	addresses, err := freeAddresses(2)
	if err != nil {
		return nil, err
	}
	p := &pair{
		a: &ground{dir: filepath.Join(b.scratch, "a"), name: addresses[0], certificate: certificate},
		b: &ground{dir: filepath.Join(b.scratch, "b"), name: addresses[1], certificate: certificate},
	}
	if err := errors.Join(p.a.lay(), p.b.lay()); err != nil {
		return nil, err
	}
	for _, u := range []struct {
		of *ground
		as *user
	}{{p.a, &p.alice}, {p.b, &p.bob}} {
		users, err := u.of.makeUsers("u", 1)
		if err != nil {
			return nil, err
		}
		*u.as = users[0]
	}
	for range rooms {
		room, err := p.b.makeRoom([]user{p.bob})
		if err != nil {
			return nil, err
		}
		p.rooms = append(p.rooms, room)
	}
	if err := p.start(b, "relaxed"); err != nil {
		return nil, err
	}
	defer p.stop()
	c, err := dial(p.nodeA.address, p.alice.token)
	if err != nil {
		return nil, err
	}
	defer c.close()
	for _, room := range p.rooms {
		if _, err := c.do("POST", v3+"/join/"+url.PathEscape(string(room))+"?via="+url.QueryEscape(string(p.b.name)), []byte("{}")); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// start has both nodes run.
func (p *pair) start(b *bench, durability string) (err error) {
	if p.nodeA, err = b.start(p.a, durability); err != nil {
		return err
	}
	if p.nodeB, err = b.start(p.b, durability); err != nil {
		p.nodeA.stop()
	}
	return err
}

func (p *pair) stop() {
	p.nodeA.stop()
	p.nodeB.stop()
}

// freeAddresses are n of this machine at which nobody listens, outside the range of those that systems give to
// connections.
func freeAddresses(n int) (out []id.ServerName, err error) {
	for port := 20000; port < 30000 && len(out) < n; port++ {
		address := "127.0.0.1:" + strconv.Itoa(port)
		if l, err := net.Listen("tcp", address); err == nil {
			out = append(out, id.ServerName(address))
			if err := l.Close(); err != nil {
				return nil, err
			}
		}
	}
	if len(out) < n {
		return nil, errors.New("no port is free")
	}
	return out, nil
}

// certify writes a certificate for this machine with its key, and gives the file.
func certify(dir string) (string, error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IsCA: true, BasicConstraintsValid: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		return "", err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return "", err
	}
	text := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})...)
	file := filepath.Join(dir, "certificate.pem")
	return file, os.WriteFile(file, text, 0o600)
}

// federation: what one node takes in from another, and how long a message is on its way.
func (b *bench) federation() error {
	p, err := b.pair(8)
	if err != nil {
		return err
	}
	if err := b.intake(p, b.scale(40000)); err != nil {
		return err
	}
	for _, durability := range []string{"full", "relaxed"} {
		if err := b.onTheWay(p, durability, b.scale(500)); err != nil {
			return err
		}
	}
	return nil
}

// intake: node a, which is this process, sends what was said while it was not there to b, a transaction at a time, as
// servers do.
func (b *bench) intake(p *pair, count int) error {
	if err := p.a.open(); err != nil {
		return err
	}
	defer p.a.close()
	from, err := storage.Get(context.Background(), p.a.db, (*storage.Tx).GetPos)
	if err != nil {
		return err
	}
	rooms := len(p.rooms)
	err = each(rooms, func(i int) error { return p.a.say(p.rooms[i], p.alice, count/rooms) })
	if err != nil {
		return err
	}
	pdus, err := p.a.outgoing(from)
	if err != nil {
		return err
	}
	if len(pdus) != count/rooms*rooms {
		return fmt.Errorf("%d events are to be sent; there should be %d", len(pdus), count/rooms*rooms)
	}
	client, err := p.a.client()
	if err != nil {
		return err
	}
	defer client.Close()
	if p.nodeB, err = b.start(p.b, "full"); err != nil {
		return err
	}
	defer p.nodeB.stop()
	const accepted = `parley_federation_received_pdus_total{result="accepted"}`
	before, err := p.nodeB.usage()
	if err != nil {
		return err
	}
	var times []time.Duration
	for i := 0; i < len(pdus); i += serverapi.MaxPDUs {
		start := time.Now()
		result, err := client.SendTransaction(context.Background(), p.b.name, "bench"+strconv.Itoa(i), &serverapi.Transaction{
			Origin: p.a.name, OriginTS: start.UnixMilli(), PDUs: pdus[i:min(i+serverapi.MaxPDUs, len(pdus))],
		})
		if err != nil {
			return err
		}
		for event, r := range result.PDUs {
			if r.Error != "" {
				b.wrong("event %s was refused: %s", event, r.Error)
				return nil
			}
		}
		times = append(times, time.Since(start))
	}
	wall := time.Since(before.at)
	used, err := p.nodeB.since(before)
	if err != nil {
		return err
	}
	if n, err := p.nodeB.metric(accepted); err != nil || n != int64(len(pdus)) {
		b.wrong("%d of %d events were accepted, %v", n, len(pdus), err)
	}
	per1000 := float64(len(pdus)) / 1000
	b.row(fmt.Sprintf("taken in by /send, %d PDUs each, %d rooms (full): events", serverapi.MaxPDUs, rooms), "over 2,500/s",
		"%.0f/s; a transaction p50 %v, p95 %v", float64(len(pdus))/wall.Seconds(), percentile(times, 50), percentile(times, 95))
	b.row("  for 1,000 events", "", "%.2f CPU-s, %.0f transactions, %.1f MB written",
		used.cpu.Seconds()/per1000, float64(used.transactions)/per1000, float64(used.written)/1e6/per1000)
	return nil
}

// outgoing are the events that are for other servers, from a position on.
func (g *ground) outgoing(from id.Pos) ([]json.RawMessage, error) {
	var pdus []json.RawMessage
	err := g.db.Read(context.Background(), func(tx *storage.Tx) error {
		to, err := tx.GetPos()
		if err != nil {
			return err
		}
		for {
			const atOnce = 1000
			list, err := tx.ListOutgoing(from, to, atOnce)
			if err != nil || len(list) == 0 {
				return err
			}
			nids := make([]storage.EventNID, len(list))
			for i := range list {
				nids[i] = list[i].Event
			}
			events, err := tx.ListEventsByNID(nids)
			if err != nil {
				return err
			}
			texts := make(map[storage.EventNID]json.RawMessage, len(events))
			for i := range events {
				texts[events[i].NID] = events[i].JSON
			}
			for _, nid := range nids {
				pdus = append(pdus, texts[nid])
			}
			from = list[len(list)-1].Pos
		}
	})
	return pdus, err
}

// client asks other servers in the node's name.
func (g *ground) client() (*remote.Client, error) {
	trusted, err := os.ReadFile(g.certificate)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(trusted)
	return remote.New(remote.Options{
		DB: g.db, Name: g.name, Keys: []keyring.SigningKey{{ID: keyID, Key: key}}, TLS: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
	})
}

// onTheWay: a message is said on a and awaited in /sync on b, and the next is said when it has come.
func (b *bench) onTheWay(p *pair, durability string, count int) error {
	if err := p.start(b, durability); err != nil {
		return err
	}
	defer p.stop()
	alice, err := dial(p.nodeA.address, p.alice.token)
	if err != nil {
		return err
	}
	defer alice.close()
	bob, err := dial(p.nodeB.address, p.bob.token)
	if err != nil {
		return err
	}
	defer bob.close()
	room := p.rooms[0]
	path := "rooms.join." + strings.NewReplacer(".", `\.`, ":", `\:`).Replace(string(room)) + ".timeline.events"
	var since string
	if _, err := bob.sync(&since, 0, ""); err != nil {
		return err
	}
	var times []time.Duration
	for i := range count {
		said := durability + strconv.Itoa(i)
		arrived := make(chan error, 1)
		go func() { arrived <- bob.await(&since, path, said) }()
		time.Sleep(2 * time.Millisecond) // so that bob waits
		start := time.Now()
		if _, err := alice.do("PUT", sendPath(room, said), []byte(`{"msgtype":"m.text","body":"`+said+`"}`)); err != nil {
			return err
		}
		if err := <-arrived; err != nil {
			return err
		}
		times = append(times, time.Since(start))
	}
	target := "p50 under 10ms, p95 under 25ms"
	if durability == "full" {
		target = fmt.Sprintf("p50 under %v: three fsyncs and 10ms", (3*b.fsync[0] + 10*time.Millisecond).Round(100*time.Microsecond))
	}
	b.row("sent on one node, in /sync on another ("+durability+")", target, "p50 %v, p95 %v", percentile(times, 50), percentile(times, 95))
	return nil
}

// await syncs until a message has come.
func (c *client) await(since *string, path, body string) error {
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
		answer, err := c.sync(since, 10000, "")
		if err != nil {
			return err
		}
		for _, e := range gjson.GetBytes(answer, path).Array() {
			if e.Get("content.body").Str == body {
				return nil
			}
		}
	}
	return fmt.Errorf("%s did not come", body)
}
