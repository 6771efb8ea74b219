// Package storage is all of Parley's SQL, once, for SQLite and PostgreSQL: a [DB], a [Tx]
// with a method for each query, and a file for each group of tables. Its schema is in
// storage/migrations, its dialect layer in storage/sqldb.
//
// It knows ids and bytes; what an event means, who may do what, and what a client is shown
// is the business of those above it. Methods are named Get, List, Insert, Update, Delete;
// a row that must be there and isn't is [ErrNotFound].
package storage
