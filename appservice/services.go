// Package appservice has to do with application services, the programs that bridge rooms to other networks or
// act in them as bots: who they are (their registration files), what they are asked (whether a user or a room is
// theirs, what they know of their networks), and what they are sent: what happens in the rooms of their users.
//
// What they ask of us is package clientapi's business, as they do so in the way that clients do. When to send, and
// when to try again, is that of internal/delivery.
//
// spec: application-service-api.md
package appservice

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tidwall/gjson"
	"github.com/tidwall/sjson"

	"parley/internal/id"
	"parley/internal/matrixerr"
	"parley/storage"
)

// queryTime bounds a question to a service for which somebody waits.
const queryTime = 20 * time.Second

// Services are all application services. Its methods may be called concurrently.
type Services struct {
	db      *storage.DB
	list    []*Service
	byToken map[tokenHash]*Service
	client  *http.Client
	log     *slog.Logger
}

// Options is what the services need. DB must be given.
type Options struct {
	DB   *storage.DB
	List []*Service
	Log  *slog.Logger
}

// New makes the services.
func New(o Options) (*Services, error) {
	if o.DB == nil {
		return nil, errors.New("application services: the database must be given")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Services{db: o.DB, list: o.List, byToken: make(map[tokenHash]*Service), client: newClient(), log: o.Log}
	for _, service := range o.List {
		s.byToken[service.token] = service
	}
	return s, nil
}

// List are all services.
func (s *Services) List() []*Service { return slices.Clone(s.list) }

// Close ends the connections that nobody uses.
func (s *Services) Close() { s.client.CloseIdleConnections() }

func (s *Services) get(service string) *Service {
	for _, other := range s.list {
		if other.ID == service {
			return other
		}
	}
	return nil
}

// ByToken is the service whose token it is with the user who acts for it, and whether its users are
// limited in what they do; "" for nobody's.
func (s *Services) ByToken(token string) (service string, sender id.UserID, limited bool) {
	if len(s.byToken) == 0 {
		return "", "", false // as on most nodes, for each request
	}
	found := s.byToken[sha256.Sum256([]byte(token))]
	if found == nil {
		return "", "", false
	}
	return found.ID, found.Sender, found.RateLimited
}

// HasUser says whether a service may act as a user.
func (s *Services) HasUser(service string, user id.UserID) bool {
	found := s.get(service)
	return found != nil && found.hasUser(user)
}

// HasAlias says whether a service may make an alias.
func (s *Services) HasAlias(service string, alias id.RoomAlias) bool {
	found := s.get(service)
	return found != nil && found.aliases.has(string(alias))
}

// ReservesUser says whether no other than a service may be a user of that name: none but it if service has
// the name of one.
func (s *Services) ReservesUser(user id.UserID, but string) bool {
	return slices.ContainsFunc(s.list, func(other *Service) bool {
		return other.ID != but && (other.Sender == user || other.users.reserves(string(user)))
	})
}

// ReservesAlias is ReservesUser for an alias.
func (s *Services) ReservesAlias(alias id.RoomAlias, but string) bool {
	return slices.ContainsFunc(s.list, func(other *Service) bool { return other.ID != but && other.aliases.reserves(string(alias)) })
}

// FindUser has the services make a user who is not there, and says whether one did.
//
// spec: application-service-api.md#get_matrixappv1usersuserid
func (s *Services) FindUser(ctx context.Context, user id.UserID) (bool, error) {
	return s.find(ctx, "/users/"+url.PathEscape(string(user)), func(service *Service) bool { return service.users.has(string(user)) })
}

// FindAlias has the services make a room that is not there, and says whether one did.
//
// spec: application-service-api.md#get_matrixappv1roomsroomalias
func (s *Services) FindAlias(ctx context.Context, alias id.RoomAlias) (bool, error) {
	return s.find(ctx, "/rooms/"+url.PathEscape(string(alias)), func(service *Service) bool { return service.aliases.has(string(alias)) })
}

func (s *Services) find(ctx context.Context, path string, has func(*Service) bool) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, queryTime)
	defer cancel()
	for _, service := range s.list {
		if service.url == "" || !has(service) {
			continue
		}
		_, err := s.ask(ctx, service, http.MethodGet, path, nil)
		if err == nil {
			return true, nil
		}
		var status *statusError
		if errors.As(err, &status) && status.status == http.StatusNotFound {
			continue
		}
		s.log.WarnContext(ctx, "an application service did not answer", "service", service.ID, "path", path, "error", err)
		if errors.Is(err, context.DeadlineExceeded) {
			// spec: application-service-api.md#querying
			return false, matrixerr.New(matrixerr.Unknown, "The bridge that this belongs to did not answer in time.").WithStatus(http.StatusRequestTimeout)
		}
	}
	return false, nil
}

// Protocols are the protocols of all services.
//
// spec: application-service-api.md#get_matrixappv1thirdpartyprotocolprotocol
func (s *Services) Protocols(ctx context.Context) (map[string]json.RawMessage, error) {
	out := make(map[string]json.RawMessage)
	var mu sync.Mutex
	s.each(ctx, func(service *Service) bool { return len(service.Protocols) > 0 }, func(ctx context.Context, service *Service) error {
		for _, protocol := range service.Protocols {
			text, err := s.ask(ctx, service, http.MethodGet, "/thirdparty/protocol/"+url.PathEscape(protocol), nil)
			if err != nil {
				return err
			}
			if text, err = withInstanceIDs(text, service.ID); err != nil {
				return err
			}
			mu.Lock()
			if known, ok := out[protocol]; ok {
				text, err = merged(known, text)
			}
			if err == nil {
				out[protocol] = text
			}
			mu.Unlock()
			if err != nil {
				return err
			}
		}
		return nil
	})
	return out, nil
}

// withInstanceIDs names the instances of a service's protocol in a way that is theirs alone.
func withInstanceIDs(protocol []byte, service string) (out []byte, err error) {
	instances := gjson.GetBytes(protocol, "instances")
	if !instances.IsArray() {
		return nil, errors.New("the protocol has no instances")
	}
	out = protocol
	for i, instance := range instances.Array() {
		out, err = sjson.SetBytes(out, fmt.Sprintf("instances.%d.instance_id", i), instanceID(service, instance.Get("network_id").Str))
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// instanceID is how a client names the network of a service.
func instanceID(service, network string) string { return service + "|" + network }

// merged is a protocol of two services.
func merged(a, b []byte) ([]byte, error) {
	var err error
	for _, instance := range gjson.GetBytes(b, "instances").Array() {
		if a, err = sjson.SetRawBytes(slices.Clone(a), "instances.-1", []byte(instance.Raw)); err != nil {
			return nil, err
		}
	}
	return a, nil
}

// Locations are places of a network that the fields lead to.
func (s *Services) Locations(ctx context.Context, protocol string, fields url.Values) ([]json.RawMessage, error) {
	return s.lookUp(ctx, protocol, "/thirdparty/location/"+url.PathEscape(protocol), fields)
}

// Users are people of a network that the fields lead to.
func (s *Services) Users(ctx context.Context, protocol string, fields url.Values) ([]json.RawMessage, error) {
	return s.lookUp(ctx, protocol, "/thirdparty/user/"+url.PathEscape(protocol), fields)
}

// LocationsOf are the places that a room shows.
func (s *Services) LocationsOf(ctx context.Context, alias id.RoomAlias) ([]json.RawMessage, error) {
	return s.lookUp(ctx, "", "/thirdparty/location", url.Values{"alias": {string(alias)}})
}

// UsersOf are the people for whom a user stands.
func (s *Services) UsersOf(ctx context.Context, user id.UserID) ([]json.RawMessage, error) {
	return s.lookUp(ctx, "", "/thirdparty/user", url.Values{"userid": {string(user)}})
}

// maxFound bounds what one look-up gives.
const maxFound = 1000

// lookUp asks the services that speak a protocol, or with protocol "" any.
//
// spec: application-service-api.md#third-party-networks
func (s *Services) lookUp(ctx context.Context, protocol, path string, fields url.Values) ([]json.RawMessage, error) {
	var out []json.RawMessage
	var mu sync.Mutex
	speaks := func(service *Service) bool {
		return protocol == "" && len(service.Protocols) > 0 || slices.Contains(service.Protocols, protocol)
	}
	s.each(ctx, speaks, func(ctx context.Context, service *Service) error {
		text, err := s.askWith(ctx, service, http.MethodGet, path, fields, nil)
		if err != nil {
			return err
		}
		var found []json.RawMessage
		if err := json.Unmarshal(text, &found); err != nil {
			return fmt.Errorf("the answer is not a list: %w", err)
		}
		mu.Lock()
		defer mu.Unlock()
		out = append(out, found[:min(len(found), maxFound-len(out))]...)
		return nil
	})
	return out, nil
}

// each asks services at the same time. Whoever does not answer has nothing to say.
func (s *Services) each(ctx context.Context, which func(*Service) bool, ask func(context.Context, *Service) error) {
	ctx, cancel := context.WithTimeout(ctx, queryTime)
	defer cancel()
	var all sync.WaitGroup
	for _, service := range s.list {
		if service.url == "" || !which(service) {
			continue
		}
		all.Go(func() {
			if err := ask(ctx, service); err != nil {
				s.log.InfoContext(ctx, "an application service could not be asked", "service", service.ID, "error", err)
			}
		})
	}
	all.Wait()
}

// Ping has a service show that it is reached, and says how long that took.
//
// spec: application-service-api.md#pinging
func (s *Services) Ping(ctx context.Context, service, txnID string) (time.Duration, error) {
	to := s.get(service)
	if to == nil || to.url == "" {
		return 0, matrixerr.New(matrixerr.URLNotSet, "The application service has no URL.")
	}
	ctx, cancel := context.WithTimeout(ctx, queryTime)
	defer cancel()
	body := map[string]string{}
	if txnID != "" {
		body["transaction_id"] = txnID
	}
	text, err := json.Marshal(body)
	if err != nil {
		return 0, err
	}
	start := time.Now()
	_, err = s.ask(ctx, to, http.MethodPost, "/ping", text)
	took := time.Since(start)
	var status *statusError
	switch {
	case errors.As(err, &status):
		return 0, matrixerr.New(matrixerr.BadStatus, "The application service answers with status %d.", status.status).
			With("status", status.status).With("body", strings.ToValidUTF8(string(status.body), "\uFFFD"))
	case isTimeout(err):
		return 0, matrixerr.New(matrixerr.ConnectionTimeout, "The application service does not answer.")
	case err != nil:
		s.log.InfoContext(ctx, "an application service was pinged in vain", "service", service, "error", err)
		return 0, matrixerr.New(matrixerr.ConnectionFailed, "The application service can't be reached.")
	}
	return took, nil
}

// Publish shows a room in the directory of a network that a service leads to, or no longer.
//
// spec: application-service-api.md#put_matrixclientv3directorylistappservicenetworkidroomid
func (s *Services) Publish(ctx context.Context, service, network string, room id.RoomID, public bool) error {
	return s.db.Write(ctx, func(tx *storage.Tx) error {
		if _, err := tx.GetRoom(room); errors.Is(err, storage.ErrNotFound) {
			return matrixerr.New(matrixerr.NotFound, "This room is not known to this server.")
		} else if err != nil {
			return err
		}
		row := storage.NetworkRoom{Service: service, Network: network, Room: room}
		if !public {
			return tx.DeleteNetworkRoom(row)
		}
		return tx.InsertNetworkRoom(row)
	})
}
