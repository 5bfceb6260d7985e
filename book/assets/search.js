// Puts claims of the study before what else a search finds, if it asks for the words of a claim: three or more words that one
// claim holds, or a claim's id. Sphinx itself knows the words of a page, not which claim they belong to.
(() => {
  const MOST = 3; // claims before other results
  const FEWEST = 3; // words that are a phrase
  if (typeof Search === "undefined" || !window.bookClaims) return;

  const plain = (text) => text.toLowerCase().normalize("NFKD").replace(/[\u0300-\u036f\u00ad]/g, "").replaceAll("−", "-")
    .replaceAll("’", "'").replace(/[^\p{L}\p{N}'%.-]+/gu, " ").trim();
  const escaped = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
  const claims = window.bookClaims.map(([id, words]) => ({ id, words, text: plain(`${id} ${words}`) }));

  // Returns the claims that a query asks for, best last, as Sphinx keeps its results.
  function asked(query) {
    const phrase = plain(query);
    const words = phrase.split(" ");
    const named = claims.filter((claim) => claim.id.toLowerCase() === phrase);
    if (named.length || words.length < FEWEST) return named;
    const held = claims.filter((claim) => words.every((word) => claim.text.includes(word)));
    const rank = (claim) => (claim.text.includes(phrase) ? 0 : 1000) + claim.text.length;
    return held.sort((one, other) => rank(one) - rank(other)).slice(0, MOST).reverse();
  }

  const found = Search._performSearch;
  Search._performSearch = (query, ...rest) => [
    ...found(query, ...rest),
    ...asked(query).map(({ id, words }) => ["claims", escaped(`${id} · ${words}`), `#${id}`, "a claim of the study", 100, "claims.md"]),
  ];
})();
