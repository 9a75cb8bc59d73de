// The versions of React that the tests run with, and where bundles find them.

/** By version: packages in the place of those that the scripts name. React 19 has the names. */
export const ALIAS = {
  18: { react: "react18", "react-dom": "react-dom18", "react-test-renderer": "react-test-renderer18" },
  19: {},
};
