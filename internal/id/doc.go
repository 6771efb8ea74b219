// Package id names every identifier of the Matrix protocol with a type of its own,
// so that a room cannot be passed where a user is meant, and parses what strangers send.
//
// It is not for the numbers by which the database knows rooms and events: those are
// storage's own.
//
// spec: appendices.md#common-identifier-format
package id
