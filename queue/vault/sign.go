package vault

import (
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/sha256"
	"fmt"
	"strconv"
)

// Signers are the keys by which a tenant's documents are signed for a purpose, one made from each key of the ring: new ones
// are signed with the first, and what an older one signed can still be told. They are Ed25519 (RFC 8032), so whoever has
// the public part can tell, and cannot sign. Without a key it returns [ErrNoKey].
func (r Ring) Signers(tenant int64, purpose string) ([]ed25519.PrivateKey, error) {
	if r.IsZero() {
		return nil, ErrNoKey
	}
	var signers []ed25519.PrivateKey
	for _, k := range r.keys() {
		seed, err := hkdf.Key(sha256.New, k.secret, nil, "sluice vault signs 1\x00"+strconv.FormatInt(tenant, 10)+"\x00"+purpose, ed25519.SeedSize)
		if err != nil {
			return nil, fmt.Errorf("make a key to sign with: %w", err)
		}
		signers = append(signers, ed25519.NewKeyFromSeed(seed))
	}
	return signers, nil
}
