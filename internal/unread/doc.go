// Package unread says what a user was notified of in a room and has not read: how many, and
// which.
//
// Nothing of it is written down. It is derived from the room's timeline, the user's receipts
// and their push rules when somebody asks, remembered for a while, and carried forward event
// by event. So a message costs the same however many people are in the room, and what changes
// the past, as a redaction or another push rule does, needs no repair.
//
// It pushes nothing to anybody, but says whom an event is to be pushed to.
//
// spec: client-server-api/modules/push.md#receiving-notifications
package unread
