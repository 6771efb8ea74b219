// Package soak lets people live with three nodes for a while: they talk in encrypted rooms, come and go, get and lose
// devices, while the nodes are killed and started again. In the end every device must have decrypted every message whose
// key was sent to it, all nodes must tell of the same messages, and every device must know of every other. The clients
// are mautrix-go's, with its olm in Go; what they encrypt and decrypt is real.
//
// It runs for PARLEY_SOAK, a duration such as 10m, and not at all where that is not set: `make soak`.
//
// spec: client-server-api/modules/end_to_end_encryption.md#end-to-end-encryption
package soak
