package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tidwall/gjson"

	"parley/internal/id"
	"parley/userserver"
)

// keys: what a client does before it sends the first message to an encrypted room of 500: it asks for the members'
// device keys and for a one-time key of each, and sends a message to each device.
func (b *bench) keys() error {
	const rounds = 5
	members := b.scale(500)
	g, err := b.ground("keys")
	if err != nil {
		return err
	}
	users, devices := make([]user, members), make([]id.DeviceID, members)
	const workers = 64
	err = each(workers, func(w int) error {
		for i := w; i < members; i += workers {
			s, err := g.users.Register(context.Background(), userserver.Registration{Localpart: "k" + strconv.Itoa(i)})
			if err != nil {
				return err
			}
			users[i], devices[i] = user{s.User, s.AccessToken}, s.Device
			if _, err := g.users.UploadKeys(context.Background(), s.User, s.Device, s.DeviceNID, someKeys(s.User, s.Device, rounds)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if _, err := g.makeRoom(users); err != nil {
		return err
	}
	n, err := b.start(g, "full")
	if err != nil {
		return err
	}
	defer n.stop()
	c, err := dial(n.address, users[0].token)
	if err != nil {
		return err
	}
	defer c.close()
	list := func(of func(i int) string) string {
		parts := make([]string, members)
		for i := range parts {
			parts[i] = of(i)
		}
		return "{" + strings.Join(parts, ",") + "}"
	}
	query := `{"device_keys":` + list(func(i int) string { return fmt.Sprintf("%q:[]", users[i].id) }) + "}"
	claim := `{"one_time_keys":` + list(func(i int) string { return fmt.Sprintf(`%q:{%q:"signed_curve25519"}`, users[i].id, devices[i]) }) + "}"
	send := `{"messages":` + list(func(i int) string {
		return fmt.Sprintf(`%q:{%q:{"algorithm":"m.olm.v1.curve25519-aes-sha2","ciphertext":%q}}`, users[i].id, devices[i], strings.Repeat("c", 900))
	}) + "}"
	var asked, sent []time.Duration
	for round := range rounds {
		began := time.Now()
		answer, err := c.do("POST", "/_matrix/client/v3/keys/query", []byte(query))
		if err != nil {
			return err
		}
		if got := len(gjson.GetBytes(answer, "device_keys").Map()); got != members {
			b.wrong("the keys of %d users were asked for, and those of %d came", members, got)
		}
		if answer, err = c.do("POST", "/_matrix/client/v3/keys/claim", []byte(claim)); err != nil {
			return err
		}
		asked = append(asked, time.Since(began))
		if got := len(gjson.GetBytes(answer, "one_time_keys").Map()); got != members {
			b.wrong("one-time keys of %d users were asked for, and those of %d came", members, got)
		}
		began = time.Now()
		if _, err := c.do("PUT", "/_matrix/client/v3/sendToDevice/m.room.encrypted/"+strconv.Itoa(round), []byte(send)); err != nil {
			return err
		}
		sent = append(sent, time.Since(began))
	}
	slices.Sort(asked)
	slices.Sort(sent)
	b.row(fmt.Sprintf("device keys and one-time keys of %d members", members), "< 1.5 s", "median %d ms, worst %d ms",
		asked[rounds/2].Milliseconds(), asked[rounds-1].Milliseconds())
	b.row(fmt.Sprintf("%d messages to devices in one request", members), "< 150 ms", "median %d ms, worst %d ms",
		sent[rounds/2].Milliseconds(), sent[rounds-1].Milliseconds())
	return nil
}

// someKeys are identity keys, and one-time keys, that look like those of a client.
func someKeys(user id.UserID, device id.DeviceID, oneTime int) userserver.KeyUpload {
	key := strings.Repeat("k", 43)
	up := userserver.KeyUpload{
		DeviceKeys: fmt.Appendf(nil, `{"user_id":%q,"device_id":%q,"algorithms":["m.olm.v1.curve25519-aes-sha2","m.megolm.v1.aes-sha2"],`+
			`"keys":{"curve25519:%[2]s":%[3]q,"ed25519:%[2]s":%[3]q}}`, user, device, key),
		OneTimeKeys: make(map[string]json.RawMessage),
	}
	for i := range oneTime {
		up.OneTimeKeys["signed_curve25519:"+strconv.Itoa(i)] = fmt.Appendf(nil, `{"key":%q}`, key)
	}
	return up
}
