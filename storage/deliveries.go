package storage

import (
	"parley/internal/id"
	"parley/storage/sqldb"
)

// ConsumerRow is a row of consumers: one of those who deliver what the log shows.
type ConsumerRow struct {
	// Pos is up to where all was seen to: whoever is in no row of deliveries has it.
	Pos id.Pos
	// Holder is the process that delivers; Beat moves while it lives.
	Holder string
	Beat   int64
}

// GetConsumer is a consumer.
func (tx *Tx) GetConsumer(name string) (c ConsumerRow, err error) {
	err = tx.QueryRow(`SELECT pos, holder, beat FROM consumers WHERE consumer = $1`, []any{name}, &c.Pos, &c.Holder, &c.Beat)
	return c, err
}

// InsertConsumer adds a consumer that begins at a position, if it is not there yet.
func (tx *Tx) InsertConsumer(name string, pos id.Pos) error {
	_, err := tx.Exec(`INSERT INTO consumers (consumer, pos, holder, beat) VALUES ($1, $2, '', 0) ON CONFLICT (consumer) DO NOTHING`, name, pos)
	return err
}

// UpdateConsumerHolder gives a consumer to a process, if its holder is still the one given with
// its beat, and says whether it is.
func (tx *Tx) UpdateConsumerHolder(name, holder string, was ConsumerRow) (bool, error) {
	n, err := tx.Exec(`UPDATE consumers SET holder = $2, beat = beat + 1 WHERE consumer = $1 AND holder = $3 AND beat = $4`,
		name, holder, was.Holder, was.Beat)
	return n > 0, err
}

// UpdateConsumerPos notes that a consumer has seen to all up to a position and that its holder
// lives, and says whether it still is the holder.
func (tx *Tx) UpdateConsumerPos(name, holder string, pos id.Pos) (bool, error) {
	n, err := tx.Exec(`UPDATE consumers SET pos = $3, beat = beat + 1 WHERE consumer = $1 AND holder = $2`, name, holder, pos)
	return n > 0, err
}

// Delivery is a row of deliveries: a destination that has not got all.
type Delivery struct {
	Destination string
	// Pos is up to where it has all.
	Pos id.Pos
	// Failures is how often in a row it could not be reached.
	Failures int64
	// RetryAt is when it is to be tried again, in milliseconds since 1970.
	RetryAt int64
}

// InsertDelivery writes how far a destination has got.
func (tx *Tx) InsertDelivery(consumer string, d *Delivery) error {
	_, err := tx.Exec(`INSERT INTO deliveries (consumer, destination, pos, failures, retry_at) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (consumer, destination) DO UPDATE SET pos = excluded.pos, failures = excluded.failures, retry_at = excluded.retry_at`,
		consumer, d.Destination, d.Pos, d.Failures, d.RetryAt)
	return err
}

// DeleteDelivery notes that a destination has got all.
func (tx *Tx) DeleteDelivery(consumer, destination string) error {
	_, err := tx.Exec(`DELETE FROM deliveries WHERE consumer = $1 AND destination = $2`, consumer, destination)
	return err
}

// ListDeliveries are the destinations of a consumer that have not got all.
func (tx *Tx) ListDeliveries(consumer string) ([]Delivery, error) {
	return sqldb.List(tx.Tx, func(row sqldb.Scanner) (d Delivery, err error) {
		return d, row.Scan(&d.Destination, &d.Pos, &d.Failures, &d.RetryAt)
	}, `SELECT destination, pos, failures, retry_at FROM deliveries WHERE consumer = $1`, consumer)
}
