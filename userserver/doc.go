// Package userserver is the only writer of accounts: registration, logins and their tokens,
// devices, profiles, account data, filters, receipts, pushers, and, in memory alone, who
// types and who is present.
//
// It knows nothing of HTTP, and of rooms only that a profile is shown in them and that a
// deactivated user leaves them: see [Rooms].
//
// spec: client-server-api/index.md#client-authentication
package userserver
