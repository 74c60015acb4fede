package fair

// maxHand is the largest hand: 60 bits of a hash deal no more.
const maxHand = 15

// deal draws a hand of distinct cards from a deck, as the hash says. Each card takes its
// part of the hash; a card that is no longer in the deck moves on by those below it.
func deal(hash uint64, deck, hand int, cards *[maxHand]int) []int {
	hand = max(1, min(hand, deck, maxHand))
	for i := range hand {
		left := uint64(deck - i)
		cards[i] = int(hash % left)
		hash /= left
	}
	// From the last to the first each is made a place in the deck as it was before the
	// cards drawn ahead of it went.
	for i := hand - 1; i > 0; i-- {
		for j := i - 1; j >= 0; j-- {
			if cards[i] >= cards[j] {
				cards[i]++
			}
		}
	}
	return cards[:hand]
}
