"""How the open-vocabulary test bed was trained; `README.md` has the commands. Not installed with the package."""
